"""AdamW without its class is AdamW: the same bits."""

import subprocess
import sys

import torch

from milepost.training.optimizer import AdamW


def test_steps_are_torchs_to_the_bit():
    torch.manual_seed(0)
    ours, theirs = (torch.arange(1000.0).div(500).requires_grad_() for _ in range(2))
    mine, torchs = AdamW(ours, weight_decay=0.01), torch.optim.AdamW([theirs], weight_decay=0.01, fused=True)
    for step in range(5):
        ours.grad = torch.randn(1000)
        theirs.grad = ours.grad.clone()
        mine.step(1e-3 / (step + 1))
        torchs.param_groups[0]["lr"] = 1e-3 / (step + 1)
        torchs.step()
    assert torch.equal(ours, theirs)
    assert torch.equal(mine.moments["exp_avg_sq"], torchs.state[theirs]["exp_avg_sq"])
    assert mine.taken.item() == 5


def test_a_step_does_not_import_torchs_compiler():
    """Which takes longer than everything else between a child's start and its first step, torch apart."""
    code = (
        "import sys, torch; from milepost.training.optimizer import AdamW; w = torch.ones(4, requires_grad=True); "
        "w.sum().backward(); torch.nn.utils.clip_grad_norm_([w], 1.0); AdamW(w, weight_decay=0.0).step(0.1); "
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
