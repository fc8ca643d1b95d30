"""`{{ item.x }}`, `{{ sample.output_text }}`: what the texts of a grader stand for, given an item and an answer.

A path goes on by `.name`, `["name"]` and `[index]`. A string is put in as it is, anything else as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from milepost.resources.graders import STEP, VARIABLE, split_template

#: The variables of `sample`, whatever the answer (reference/openai-contract.md §2.7).
SAMPLE_NAMES = ("output_text", "output_json", "output_tools", "choices", "output_audio")

Namespaces = Mapping[str, Any]

#: Longest text that comes of the templates of one grader, in characters: a few `{{ item }}` can become very much.
MAX_FILLED = 8_000_000

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


class TooLong(Exception):  # noqa: N818 (as above)
    """What is filled in is more than any grader should read."""

    def __init__(self) -> None:
        super().__init__(f"Filled in, the templates are longer than {MAX_FILLED} characters. Name a part of the item")


def fill(spaces: Namespaces, *templates: str) -> list[str]:
    """The templates with their variables filled in. Raises `UnknownVariable` and `TooLong`."""
    texts, left = [], MAX_FILLED
    for template in templates:
        pieces = split_template(template)
        for index in range(1, len(pieces), 2):
            pieces[index] = _text(pieces[index].strip(), _look_up(pieces[index], spaces))
            left -= len(pieces[index])
            if left < 0:
                raise TooLong
        texts.append("".join(pieces))
    return texts


def unknown_names(template: str) -> list[str]:
    """Variables of the template that no answer will ever have."""
    paths = [VARIABLE.fullmatch(inside) for inside in split_template(template)[1::2]]
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


def _text(path: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise UnknownVariable(path, "it is nested too deep") from None
