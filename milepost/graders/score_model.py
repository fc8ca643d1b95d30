"""A score that another model gives. The judge is a function: graders know no engine and no HTTP."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milepost.errors import Error
from milepost.graders.scores import Score, failed
from milepost.graders.templates import Namespaces, fill
from milepost.resources.graders import SamplingParams, ScoreModelGrader, TokenUsage
from milepost.resources.messages import SYSTEM_ROLES

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A judge's answer; `model` is the name it answered by."""

    text: str
    model: str
    usage: TokenUsage


#: Asks the named model. Raises one of `milepost.errors` when it cannot answer.
Judge = Callable[[str, Sequence[Message], SamplingParams], Judged]

#: OpenAI asks its judges for the same object.
INSTRUCTION = (
    "Grade as the conversation asks you to. Answer with one JSON object and nothing else: "
    '{{"steps": [{{"description": "...", "conclusion": "..."}}], "result": NUMBER}}, '
    "where NUMBER is the score, from {low:g} to {high:g}."
)


def score_model(grader: ScoreModelGrader, spaces: Namespaces, judge: Judge) -> Score:
    """The number the judge gives, clipped to the grader's range (0 to 1 if it has none); 0 when it gives none."""
    low, high = grader.range or (0.0, 1.0)
    texts = fill(spaces, *(message.template for message in grader.input))
    messages = [{"role": turn.role, "content": text} for turn, text in zip(grader.input, texts, strict=True)]
    try:
        judged = judge(grader.model, _instructed(messages, low, high), grader.sampling_params or SamplingParams())
    except Error as error:
        return failed(
            f"The judge `{grader.model}` did not answer: {error.message}",
            "model_grader_server_error",
            model_grader_server_error_details=error.message,
        )
    judges = {judged.model: judged.usage}
    number = _number(judged.text)
    if number is None:
        details = f"The judge `{judged.model}` gave no number: {_shortened(judged.text)!r}"
        return Score(0.0, failed(details, "model_grader_parse_error").errors, judges=judges)
    return Score(min(max(number, low), high), judges=judges)


def _instructed(messages: Sequence[dict[str, str]], low: float, high: float) -> list[dict[str, str]]:
    """What form the answer must have is said in the first system message: many templates allow one there only."""
    instruction = INSTRUCTION.format(low=low, high=high)
    first, *rest = messages
    if first["role"] in SYSTEM_ROLES:
        return [first | {"content": f"{first['content']}\n\n{instruction}"}, *rest]
    return [{"role": "system", "content": instruction}, *messages]


def _number(text: str) -> float | None:
    """The `result` of the first JSON object that has one, or the whole answer, if that is a number."""
    decoder = json.JSONDecoder()
    for brace in list(re.finditer(r"\{", text))[:100]:
        try:
            found, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and "result" in found:
            return _finite(found["result"])
    return _finite(text.strip())


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"
