"""One answer, one grader, one score: `grade`. GRADERS says which function scores which type.

Pure but for the judge and the Python runner, which the caller gives: the API asks engines, training asks the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from milepost.errors import Invalid
from milepost.graders import formulas
from milepost.graders.python import PythonRunner, python
from milepost.graders.score_model import Judge, score_model
from milepost.graders.scores import Score, failed
from milepost.graders.string_check import string_check
from milepost.graders.templates import SAMPLE_NAMES, Namespaces, TooLong, UnknownVariable, namespaces, unknown_names
from milepost.graders.text_similarity import text_similarity
from milepost.resources.graders import (
    AnyGrader,
    GraderErrors,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    TextSimilarityGrader,
    TokenUsage,
)


@dataclass(frozen=True, slots=True)
class Means:
    """What graders need and do not have."""

    judge: Judge
    run_python: PythonRunner


def grade(grader: AnyGrader, model_sample: str, item: Mapping[str, Any], means: Means) -> Score:
    """Score an answer. What goes wrong is in the score; raises `Invalid` only where python graders cannot be run."""
    return _grade(grader, namespaces(model_sample, item), means)


def _grade(grader: AnyGrader, spaces: Namespaces, means: Means) -> Score:
    try:
        return GRADERS[type(grader)](grader, spaces, means)
    except UnknownVariable as error:
        flags = ("invalid_variable_error", *(("sample_parse_error",) if error.is_unparsed_sample else ()))
        return failed(str(error), *flags)
    except TooLong as error:
        return failed(str(error), "other_error")


def _multi(grader: MultiGrader, spaces: Namespaces, means: Means) -> Score:
    """The formula's value. A grader that fails counts as 0; before a formula that cannot be read, none is run."""
    named = grader.named
    try:
        formula = formulas.read(grader.calculate_output, frozenset(named))
    except formulas.FormulaError as error:
        return failed(str(error), "formula_parse_error")
    scores = {name: _grade(each, spaces, means) for name, each in named.items()}
    rewards = {name: score.reward for name, score in scores.items()}
    errors = {name: score.errors for name, score in scores.items()}
    try:
        reward = formula(rewards)
    except formulas.FormulaError as error:
        reward, errors["calculate_output"] = 0.0, failed(str(error), "formula_parse_error").errors
    outputs = [score.output for score in scores.values() if score.output]
    return Score(reward, _together(errors), rewards, _add_up(scores), "".join(outputs) or None)


#: Every type of grader, and what scores it.
GRADERS: Mapping[type, Callable[[Any, Namespaces, Means], Score]] = {
    StringCheckGrader: lambda grader, spaces, _: string_check(grader, spaces),
    TextSimilarityGrader: lambda grader, spaces, _: text_similarity(grader, spaces),
    ScoreModelGrader: lambda grader, spaces, means: score_model(grader, spaces, means.judge),
    PythonGrader: lambda grader, spaces, means: python(grader, spaces, means.run_python),
    MultiGrader: _multi,
}


def _together(errors: Mapping[str, GraderErrors]) -> GraderErrors:
    """A flag is set if it is for any of them; the texts say whose they are."""
    found: dict[str, Any] = {}
    for field in GraderErrors.model_fields:
        values = {name: getattr(each, field) for name, each in errors.items()}
        texts = [f"{name}: {value}" for name, value in values.items() if isinstance(value, str)]
        found[field] = (
            "\n".join(texts) if texts else True in values.values() or GraderErrors.model_fields[field].default
        )
    return GraderErrors(**found)


def _add_up(scores: Mapping[str, Score]) -> dict[str, TokenUsage]:
    judges: dict[str, TokenUsage] = {}
    for score in scores.values():
        for model, usage in score.judges.items():
            before = judges.get(model)
            judges[model] = before + usage if before else usage
    return judges


def check(grader: AnyGrader) -> None:
    """Refuse what will go wrong whatever the item and the answer are. Raises `Invalid`, which says where it is."""
    for place, each in parts(grader):
        for field, template in _templates(each):
            for path in unknown_names(template):
                raise Invalid(
                    f"`{{{{ {path} }}}}` in '{place}.{field}' will never be there: "
                    f"`sample` has {', '.join(SAMPLE_NAMES)}",
                    param=f"{place}.{field}",
                    code="invalid_value",
                )
    if not isinstance(grader, MultiGrader):
        return
    try:
        formulas.read(grader.calculate_output, frozenset(grader.named))
    except formulas.FormulaError as error:
        raise Invalid(
            f"Invalid value for 'grader.calculate_output': {error}",
            param="grader.calculate_output",
            code="invalid_value",
        ) from None


def parts(grader: AnyGrader) -> list[tuple[str, AnyGrader]]:
    """The grader and those in it, each with where it is in the request: `grader.graders.quality`."""
    inside = _places(grader) if isinstance(grader, MultiGrader) else ()
    return [("grader", grader), *((f"grader.graders{step}", each) for step, each in inside)]


def _places(grader: MultiGrader) -> list[tuple[str, AnyGrader]]:
    if isinstance(grader.graders, Mapping):
        return [(f".{name}", each) for name, each in grader.named.items()]
    if isinstance(grader.graders, tuple):
        return [(f"[{index}]", each) for index, each in enumerate(grader.named.values())]
    return [("", each) for each in grader.named.values()]


def _templates(grader: AnyGrader) -> list[tuple[str, str]]:
    if isinstance(grader, StringCheckGrader | TextSimilarityGrader):
        return [("input", grader.input), ("reference", grader.reference)]
    if isinstance(grader, ScoreModelGrader):
        return [(f"input[{index}].content", message.template) for index, message in enumerate(grader.input)]
    return []
