"""When a step is not taken: its loss or its gradient is not a finite number, or its loss is a spike.

What counts follows from the state before the step and from the step, so a resumed run decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from milepost.errors import Invalid

#: Steps whose losses tell what is usual, and how many of them it takes to tell.
WINDOW, LEAST = 32, 8

#: After so many skipped steps in a row the fault is not in their examples.
MAX_IN_A_ROW = 10


def fault(loss: float, gradient_norm: float, recent: Sequence[float], threshold: float | None) -> str | None:
    """What is wrong with a step; None if nothing is. A spike is more than `threshold` nats above the median loss of the
    last steps that were taken.
    """
    if not math.isfinite(loss):
        return "its loss is not a finite number"
    if not math.isfinite(gradient_norm):
        return f"its gradient is not a finite number, though its loss is {loss:.4g}"
    if threshold is None or len(recent) < LEAST:
        return None
    usual = median(recent)
    if loss <= usual + threshold:
        return None
    return (
        f"its loss {loss:.4g} is a spike, more than {threshold:g} above {usual:.4g}, the median of the last "
        f"{len(recent)} losses"
    )


def remembered(recent: Sequence[float], loss: float) -> tuple[float, ...]:
    """The recent losses after a step that was taken."""
    return (*recent, loss)[-WINDOW:]


def skipped(step: int, total: int, what: str, lines: Sequence[int]) -> str:
    return (
        f"Step {step}/{total} is skipped: {what}. Its examples are on {_lines(lines)} of the training file; the "
        "weights stay as they were"
    )


def failure(step: int, what: str, lines: Sequence[int], kept_step: int) -> Invalid:
    """For a run that is to fail at its first such step. `kept_step` is of the state that is kept, 0 if none is."""
    kept = f" The weights of step {kept_step} are kept as a checkpoint." if kept_step else ""
    return Invalid(
        f"Step {step} diverged: {what}. Its examples are on {_lines(lines)} of the training file.{kept} Look at those "
        "lines, try a smaller learning rate, or have such steps skipped with on_divergence `skip`",
        param="hyperparameters",
        code="training_diverged",
    )


def hopeless(step: int, what: str, lines: Sequence[int], skipped_steps: int) -> Invalid:
    """For a run that skips such steps, when skipping does not help."""
    return Invalid(
        f"Step {step} diverged: {what}. Its examples are on {_lines(lines)} of the training file. It is the last of "
        f"{skipped_steps} skipped steps in a row: the weights themselves have diverged, or no line can be trained on. "
        "Try a smaller learning rate",
        param="hyperparameters",
        code="training_diverged",
    )


def _lines(numbers: Sequence[int]) -> str:
    listed = ", ".join(map(str, sorted(numbers)))
    return f"line {listed}" if len(numbers) == 1 else f"lines {listed}"
