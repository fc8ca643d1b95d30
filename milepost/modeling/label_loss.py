"""Cross entropy where there is a label, and only there; logits exist for one chunk of rows at a time.

The gradient is formed in the forward pass, while the chunk's logits are at hand, so that they are computed once and
never all kept: (rows, 49,152) in fp32 would be the largest tensor of a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milepost.modeling.model import Finish, finished

#: Rows of logits at a time: of 49,152 tokens in fp32 they stay below the 32 MiB above which glibc takes fresh pages for
#: every tensor, whatever it is told. Twice as many took three times as long. Of larger vocabularies there are fewer.
CHUNK, LARGEST = 128, 128 * 49_152


def label_losses(hidden: Tensor, head: Tensor, labels: Tensor, finish: Finish | None = None) -> tuple[Tensor, Tensor]:
    """Each label's loss in nats (rows,), in fp64, and whether it is the likeliest token (rows,).

    `hidden` is (rows, hidden), `head` (vocab, hidden), `labels` (rows,); `finish` what the model does after the head.
    """
    losses, hits = _LabelLosses.apply(hidden, head, labels, finish)  # type: ignore[no-untyped-call]  # torch's
    return losses, hits


class _LabelLosses(torch.autograd.Function):
    """A row's gradient is kept as that of its own loss: what the losses are multiplied with later scales it."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, finish: Finish | None) -> tuple[Tensor, Tensor]:
        learns = ctx.needs_input_grad[0]
        d_hidden = torch.empty_like(hidden) if learns else None
        losses = torch.empty(len(labels), dtype=torch.float64)
        hits = torch.empty(len(labels), dtype=torch.bool)
        chunk = min(CHUNK, max(LARGEST // len(head), 1))
        for begin in range(0, len(labels), chunk):
            rows = slice(begin, begin + chunk)
            wanted = labels[rows, None]
            logits = finished((hidden[rows] @ head.T).float(), finish)
            hits[rows] = (logits.argmax(-1, keepdim=True) == wanted).squeeze(-1)
            logs = logits.log_softmax(-1)
            found = logs.gather(-1, wanted)
            losses[rows] = -found.double().squeeze(-1)
            if d_hidden is not None:
                shares = logs.exp_()
                shares.scatter_(-1, wanted, shares.gather(-1, wanted) - 1)
                d_products = shares if finish is None else finish.back(shares, logits)
                d_hidden[rows] = d_products.to(head.dtype) @ head
        if d_hidden is not None:
            ctx.save_for_backward(d_hidden)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        (d_hidden,) = ctx.saved_tensors
        return (d_hidden.float() * d_losses.float().unsqueeze(-1)).to(d_hidden.dtype), None, None, None
