"""`{{ item.x }}`, `{{ sample.output_text }}`: what the texts of a grader stand for, given an item and an answer.

A path goes on by `.name`, `["name"]` and `[index]`. A string is put in as it is, anything else as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from milepost.resources.graders import STEP, TEMPLATE, VARIABLE

#: The variables of `sample`, whatever the answer (reference/openai-contract.md §2.7).
SAMPLE_NAMES = ("output_text", "output_json", "output_tools", "choices", "output_audio")

Namespaces = Mapping[str, Any]

ONE_STEP = re.compile(STEP)


class UnknownVariable(Exception):  # noqa: N818 (caught by `grading`, which makes it a flag of the answer)
    """A variable that this item or this answer does not have."""

    def __init__(self, path: str, problem: str, *, is_unparsed_sample: bool = False) -> None:
        super().__init__(f"`{{{{ {path} }}}}` cannot be filled in: {problem}")
        self.is_unparsed_sample = is_unparsed_sample


def namespaces(model_sample: str, item: Mapping[str, Any]) -> Namespaces:
    return {"sample": sample_of(model_sample), "item": item}


def sample_of(model_sample: str) -> dict[str, Any]:
    """The namespace `sample`, which `grade(sample, item)` is given too. `output_json` is None of what is no JSON."""
    try:
        parsed = orjson.loads(model_sample)
    except ValueError:
        parsed = None
    message = {"role": "assistant", "content": model_sample}
    return {
        "output_text": model_sample,
        "output_json": parsed,
        "output_tools": [],
        "choices": [{"index": 0, "message": message}],
        "output_audio": None,
    }


def fill(template: str, spaces: Namespaces) -> str:
    """The template with its variables filled in. Raises `UnknownVariable`."""
    return TEMPLATE.sub(lambda found: _text(_look_up(found[1], spaces)), template)


def unknown_names(template: str) -> list[str]:
    """Variables of the template that no answer will ever have."""
    paths = [VARIABLE.fullmatch(inside) for inside in TEMPLATE.findall(template)]
    ours = [path for path in paths if path and path[1] == "sample" and path[2]]
    return [path[0].strip() for path in ours if _steps(path[2])[0] not in SAMPLE_NAMES]


def _steps(steps: str) -> list[str | int]:
    found = [step.lstrip(".").strip("[]") for step in ONE_STEP.findall(steps)]
    return [int(step) if step.isdecimal() else step.strip("\"'") for step in found]


def _look_up(inside: str, spaces: Namespaces) -> Any:
    variable = VARIABLE.fullmatch(inside)
    assert variable is not None  # `resources.graders` refuses what has another form
    steps = _steps(variable[2])
    path = variable[0].strip()
    value = spaces[variable[1]]
    if variable[1] == "sample" and steps[:1] == ["output_json"] and value["output_json"] is None:
        raise UnknownVariable(path, "the answer is not JSON", is_unparsed_sample=True)
    for step in steps:
        value = _take(value, step, path)
    return value


def _take(value: Any, step: str | int, path: str) -> Any:
    if isinstance(value, Mapping):
        if str(step) in value:
            return value[str(step)]
        there = ", ".join(f"`{name}`" for name in list(value)[:10]) or "nothing"
        raise UnknownVariable(path, f"there is no `{step}`; there is {there}")
    if isinstance(value, list) and isinstance(step, int):
        if step < len(value):
            return value[step]
        raise UnknownVariable(path, f"there is no [{step}]: the list has {len(value)} elements")
    raise UnknownVariable(path, f"`{step}` is asked of something that has no parts")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
