"""1 or 0: whether one text is another, or has it in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from milepost.graders.scores import Score
from milepost.graders.templates import Namespaces, fill
from milepost.resources.graders import StringCheckGrader

#: Upper and lower case are made alike as Unicode folds them, one letter at a time: `ß` is like `SS`.
OPERATIONS: Mapping[str, Callable[[str, str], bool]] = {
    "eq": lambda text, reference: text == reference,
    "ne": lambda text, reference: text != reference,
    "like": lambda text, reference: reference in text,
    "ilike": lambda text, reference: reference.casefold() in text.casefold(),
}


def string_check(grader: StringCheckGrader, spaces: Namespaces) -> Score:
    """`like` and `ilike` ask whether `input` has `reference` in it; the empty text is in every text."""
    text, reference = fill(spaces, grader.input, grader.reference)
    holds = OPERATIONS[grader.operation](text, reference)
    return Score(float(holds))
