"""What `auto` stands for: resolved when the job is created, since the number of examples is known from the upload.

The reasons come with the numbers, and become an event: OpenAI never told what its `auto` chose, nor what rate the
multiplier multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

from milepost.resources.jobs import Hyperparameters
from milepost.resources.methods import SupervisedHyperparameters
from milepost.resources.models import Base
from milepost.resources.runs import RunHyperparameters

#: Learning rate that a multiplier of 1.0 stands for, with LoRA of rank 16 on all linear layers: (up to how many
#: parameters of the base, rate). Small bases bear more, and need it to learn from a few hundred examples.
BASE_RATES = ((500_000_000, 1e-3), (3_000_000_000, 4e-4), (float("inf"), 2e-4))

# The rule of OpenAI's cookbook for n_epochs (reference/openai-contract.md §2.2).
_TARGET_EPOCHS = 3
_MIN_SEEN, _MAX_SEEN = 100, 25_000
_MAX_AUTO_EPOCHS = 25

# OpenAI took 0.2 % of the examples, which is 1 below 750: on a CPU eight short chats cost little more time than one,
# and a small model's steps are noisy. So up to 8, but never fewer than 32 steps an epoch.
_SMALL_BATCH, _MIN_STEPS = 8, 32
_BATCH_SHARE, _MAX_BATCH = 0.002, 256


@dataclass(frozen=True, slots=True)
class Resolved:
    """`shown` is what the job shows, `run` what the training process gets, `reason` one line for people."""

    shown: Hyperparameters
    run: RunHyperparameters
    base_rate: float
    reason: str


def resolve(asked: SupervisedHyperparameters, examples: int, base: Base) -> Resolved:
    """Turn what was asked for into numbers, for a training file of `examples` lines."""
    n_epochs = auto_epochs(examples) if asked.n_epochs == "auto" else asked.n_epochs
    batch_size = auto_batch_size(examples) if asked.batch_size == "auto" else asked.batch_size
    multiplier = 1.0 if asked.learning_rate_multiplier == "auto" else asked.learning_rate_multiplier
    base_rate = next(rate for most, rate in BASE_RATES if base.parameters <= most)
    run = RunHyperparameters(
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=base_rate * multiplier,
        max_length=min(RunHyperparameters.model_fields["max_length"].default, base.context_length),
    )
    reason = (
        f"Hyperparameters for {examples} examples: "
        f"n_epochs={n_epochs} ({_why(asked.n_epochs, 'so that 100 to 25,000 examples are seen')}), "
        f"batch_size={batch_size} ({_why(asked.batch_size, 'up to 8, with 32 steps an epoch or more')}), "
        f"learning_rate_multiplier={multiplier:g} ({_why(asked.learning_rate_multiplier, 'the base rate as it is')}). "
        f"The learning rate is {run.learning_rate:g}: {multiplier:g} times {base_rate:g}, the rate for "
        f"LoRA of rank {run.lora_rank} on a base of {base.parameters:,} parameters"
    )
    shown = Hyperparameters(n_epochs=n_epochs, batch_size=batch_size, learning_rate_multiplier=multiplier)
    return Resolved(shown, run, base_rate, reason)


def auto_epochs(examples: int) -> int:
    """Three, but more for few examples and fewer for very many: the cookbook's rule."""
    if examples * _TARGET_EPOCHS < _MIN_SEEN:
        return min(_MAX_AUTO_EPOCHS, _MIN_SEEN // max(examples, 1))
    if examples * _TARGET_EPOCHS > _MAX_SEEN:
        return max(1, _MAX_SEEN // examples)
    return _TARGET_EPOCHS


def auto_batch_size(examples: int) -> int:
    small = min(_SMALL_BATCH, examples // _MIN_STEPS)
    return min(_MAX_BATCH, max(1, small, round(_BATCH_SHARE * examples)))


def _why(asked: object, reason: str) -> str:
    return f"auto: {reason}" if asked == "auto" else "as asked"
