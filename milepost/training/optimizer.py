"""AdamW (arXiv:1711.05101) over one tensor: torch's own arithmetic, through its functional form.

`torch.optim.AdamW` the class imports torch's compiler, which nothing here uses: 1.4 s of every child's start.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPS = (0.9, 0.999), 1e-8

#: What AdamW remembers of a weight.
MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """`moments` are like `weights`, whose gradient is `weights.grad`; `taken` counts the steps: (), fp32."""

    def __init__(self, weights: Tensor, *, weight_decay: float) -> None:
        self._weights, self._weight_decay = weights, weight_decay
        self.moments = {name: torch.zeros_like(weights) for name in MOMENTS}
        self.taken = torch.tensor(0.0)

    def step(self, learning_rate: float) -> None:
        weights = self._weights
        assert weights.grad is not None
        with torch.no_grad():
            adamw(
                [weights],
                [weights.grad],
                [self.moments["exp_avg"]],
                [self.moments["exp_avg_sq"]],
                [],
                [self.taken],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=self._weight_decay,
                eps=EPS,
                maximize=False,
            )
