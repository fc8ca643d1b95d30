"""What a grader gives: a reward, what went wrong, and what its judges used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from milepost.resources.graders import GraderErrors, TokenUsage

NO_ERRORS = GraderErrors()


@dataclass(frozen=True, slots=True)
class Score:
    """`judges` are tokens per model that was asked; `output` is what a python grader printed, in part."""

    reward: float
    errors: GraderErrors = NO_ERRORS
    sub_rewards: Mapping[str, float] = field(default_factory=dict)
    judges: Mapping[str, TokenUsage] = field(default_factory=dict)
    output: str | None = None


def failed(details: str, *flags: str, **errors: Any) -> Score:
    """No reward, and why: `flags` and `errors` are fields of `GraderErrors`."""
    return Score(0.0, GraderErrors(**dict.fromkeys(flags, True), **errors, details=details))
