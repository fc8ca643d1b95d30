"""Which examples and which learning rate each step has: functions of the job's seed and the step, so a resumed run
needs to remember neither.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from milepost.resources.methods import Scheduler
from milepost.resources.runs import RunHyperparameters

#: Every how many steps a batch of the validation file is measured.
VALID_EVERY = 10

#: From the top rate, the steps that are left and those there are after the warm-up, to the rate of a step.
SCHEDULES: dict[Scheduler, Callable[[float, int, int], float]] = {
    "linear": lambda top, left, steps: top * left / steps,
    "cosine": lambda top, left, steps: top * (1 - math.cos(math.pi * left / steps)) / 2,
    "constant": lambda top, left, steps: top,  # noqa: ARG005
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps count from 1. Each epoch has an order of its own, and ends with what is left over."""

    hyperparameters: RunHyperparameters
    seed: int
    examples: int

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.examples / self.hyperparameters.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.hyperparameters.n_epochs

    def is_epoch_end(self, step: int) -> bool:
        return step % self.steps_per_epoch == 0

    def is_checkpoint(self, step: int) -> bool:
        """Where an epoch ends, and as often as was asked for."""
        every = self.hyperparameters.checkpoint_every
        return self.is_epoch_end(step) or (every is not None and step % every == 0)

    def indices(self, step: int) -> list[int]:
        """The training examples of a step."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        begin = place * self.hyperparameters.batch_size
        return self._shuffled(self.examples, epoch)[begin : begin + self.hyperparameters.batch_size]

    def valid_indices(self, step: int, examples: int) -> list[int]:
        """The validation examples measured at a step, if any: at every tenth, and at a checkpoint's."""
        if not examples or not (step % VALID_EVERY == 0 or self.is_checkpoint(step)):
            return []
        order = self._shuffled(examples, -1)
        size = min(self.hyperparameters.batch_size, examples)
        begin = step // VALID_EVERY * size
        return [order[i % examples] for i in range(begin, begin + size)]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then the schedule: linear and cosine would reach zero one step after the last."""
        top = self.hyperparameters.learning_rate
        warmup = math.ceil(self.hyperparameters.warmup_ratio * self.total_steps)
        if step <= warmup:
            return top * step / warmup
        schedule = SCHEDULES[self.hyperparameters.lr_scheduler]
        return schedule(top, self.total_steps - step + 1, self.total_steps - warmup)

    def dropout_seed(self, step: int) -> int:
        """What is dropped in a step; hashed, since torch's generator takes the lowest 32 bits of a seed only."""
        return int.from_bytes(hashlib.sha256(f"dropout {self.seed} {step}".encode()).digest()[:4], "little")

    def _shuffled(self, count: int, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed << 8) + epoch + 1)  # an epoch fits 8 bits: 50 at most
        order: list[int] = torch.randperm(count, generator=generator, device="cpu").tolist()
        return order
