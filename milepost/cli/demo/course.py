"""What is taught: the base, the pairs and the settings of the full demo and of the quick one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from milepost.cli.demo import questions
from milepost.cli.demo.questions import Pair

if TYPE_CHECKING:
    from openai.types.fine_tuning import SupervisedHyperparametersParam

#: The kinds of question that are asked of every checkpoint while the job runs.
SHOWN = ("failed", "best_checkpoint", "on_model")


@dataclass(frozen=True, slots=True)
class Course:
    base: str
    training: Sequence[Pair]
    validation: Sequence[Pair]
    held_out: Sequence[Pair]
    shown: Sequence[Pair]  # asked of every checkpoint
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    gflop_per_token: float  # of training: forward and backward through frozen weights (reference/training.md)
    rest_s: float  # everything but training on two cores: starting, validating, chats, SQL, the exam

    @property
    def hyperparameters(self) -> SupervisedHyperparametersParam:
        return {
            "n_epochs": self.n_epochs,
            "batch_size": self.batch_size,
            "learning_rate_multiplier": self.learning_rate_multiplier,
        }

    @property
    def mark(self) -> str:
        """Tells a job of this very course from one of other data or settings."""
        told = f"{self.base} {self.hyperparameters}".encode()
        return hashlib.sha256(told + questions.jsonl(self.training) + questions.jsonl(self.validation)).hexdigest()[:16]


def full() -> Course:
    held_out = questions.held_out()
    return Course(
        base="smollm2-135m-instruct",
        training=questions.training(),
        validation=questions.validation(),
        held_out=held_out,
        shown=_one_each(held_out, SHOWN),
        n_epochs=3,
        batch_size=8,
        learning_rate_multiplier=1.0,
        gflop_per_token=0.51,
        rest_s=60.0,
    )


def quick() -> Course:
    """The same way through every part with the tiny random model, which learns nothing of use."""
    held_out = questions.held_out()
    return Course(
        base="tiny-random-llama",
        training=questions.training()[:40],
        validation=questions.validation()[:10],
        held_out=held_out,
        shown=_one_each(held_out, SHOWN),
        n_epochs=3,
        batch_size=4,
        learning_rate_multiplier=1.0,
        gflop_per_token=0.001,
        rest_s=30.0,
    )


def _one_each(pairs: Sequence[Pair], kinds: Sequence[str]) -> Sequence[Pair]:
    return tuple(next(pair for pair in pairs if pair.kind == kind) for kind in kinds)
