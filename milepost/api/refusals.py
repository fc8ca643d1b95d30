"""The sentences for requests that never reach a route, or reach it with a body or query that does not fit.

Texts are OpenAI's where they are known (reference/openai-contract.md §4.2); each names the field and the value found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


NOT_JSON = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The API expects a JSON payload with the header Content-Type: application/json, but what was sent was "
    "not valid JSON{}.)"
)

#: What OpenAI serves and Milepost does not yet: a test walks the SDK's routes and finds each of them here or served.
NOT_SERVED = re.compile(
    r"/v1/(agents|assistants|audio|batches|chatkit|containers|content_provenance_checks|conversations|decisions|embeddings|evals"
    r"|images|live|moderations|organization|projects|realtime|responses|safety|skills|threads|vaults"
    r"|vector_stores|videos|webhook_endpoints|webhook_event_types"
    r"|chat/completions)(/.*)?"
)


def http_refusal(request: Request, error: HTTPException) -> Refusal:
    """What the router and the layers before it refuse: no such URL, wrong method, too large a body."""
    call = f"({request.method} {request.url.path})"
    is_unknown = error.status_code == 404 and NOT_SERVED.fullmatch(request.url.path)
    if is_unknown or (error.status_code == 405 and (request.method, request.url.path) in ALSO_NOT_SERVED):
        return Refusal(404, f"Invalid URL {call}: this route of OpenAI's API is not served by Milepost yet. {SERVED}")
    if error.status_code == 404:
        return Refusal(404, f"Invalid URL {call}")
    if error.status_code == 405:
        methods = _methods(request)
        message = f"Invalid method for URL {call}. Its methods: {methods}. /openapi.json lists those of each URL"
        return Refusal(405, message, headers={"allow": methods})
    if error.status_code == 400:
        return Refusal(400, NOT_JSON.format(f": {error.detail}"))
    return Refusal(error.status_code, error.detail)


def _methods(request: Request) -> str:
    """What a URL may be called with. The router's own answer names the methods of one route of several only."""
    scopes = ({"type": "http", "path": request.url.path, "method": method, "headers": []} for method in METHODS)
    found = (
        scope["method"]
        for scope in scopes
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes)
    )
    return ", ".join(map(str, found))


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
#: Methods of OpenAI's on paths that are served with others.
ALSO_NOT_SERVED = {("GET", "/v1/chat/completions")}

SERVED = (
    "Served are /v1/files, /v1/uploads, /v1/fine_tuning/jobs, /v1/fine_tuning/checkpoints, "
    "/v1/fine_tuning/alpha/graders, /v1/models, /v1/chat/completions, /v1/completions, /v1/organization/projects and "
    "/v1/organization/admin_api_keys"
)


def bad_request(_request: Request, error: RequestValidationError) -> Refusal:
    """The first field that does not fit.

    What may be one of several things has a fault for each: the one that got furthest into the value was meant.
    """
    found = [_Fault.read(fault, error.body) for fault in error.errors()]
    first = found[0]
    if first.kind == "json_invalid":
        return Refusal(400, NOT_JSON.format(f": {first.context['error']} at character {first.place[0]}"))
    if not first.place:
        return Refusal(400, NOT_JSON.format(""))
    within = [fault for fault in found if fault.place[: len(first.place)] == first.place]
    first = max(within, key=lambda fault: len(fault.place))
    same = [fault for fault in within if fault.place == first.place]
    if len(same) > 1:
        wanted = "; or ".join(dict.fromkeys(fault.sentence for fault in same))
        return Refusal(
            400, f"Invalid value for '{first.param}': {first.shown}. {wanted}.", first.param, "invalid_value"
        )
    words = next((words for pattern, words in WORDS if re.fullmatch(pattern, first.kind)), _other)
    message, code = words(first)
    return Refusal(400, message, None if first.is_unknown_argument else first.param, code)


@dataclass(frozen=True, slots=True)
class _Fault:
    """One of pydantic's errors. `place` is where it is in what was sent, without the names of the union's branches."""

    kind: str
    place: tuple[str | int, ...]
    sentence: str
    value: Any
    context: Mapping[str, Any]

    @classmethod
    def read(cls, fault: Mapping[str, Any], body: Any) -> _Fault:
        where, *place = fault["loc"]
        if where == "body" and fault["type"] != "json_invalid":
            place = _place(place, body, fault["type"])
        kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
        if kind in UNTAGGED and isinstance(
            value, dict
        ):  # of one of several things: what it lacks is the word for which
            tag = context["discriminator"].strip("'")
            kind, place, value = UNTAGGED[kind], [*place, tag], value.get(tag)
        return cls(kind, tuple(place), fault["msg"], value, context)

    @property
    def param(self) -> str:
        """As OpenAI writes it: `messages[0].content`."""
        steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.place)
        return steps.removeprefix(".")

    @property
    def shown(self) -> str:
        text = repr(self.value)
        return text if len(text) <= 100 else f"{text[:100]}…"

    @property
    def is_unknown_argument(self) -> bool:
        return self.kind == "extra_forbidden" and len(self.place) == 1


def _place(steps: Sequence[str | int], body: Any, kind: str) -> list[str | int]:
    """Follow `steps` through the body. A step that is not there is the name of a union's branch, or what is missing."""
    place: list[str | int] = []
    for number, step in enumerate(steps):
        is_last = number == len(steps) - 1
        is_index = isinstance(step, int) and isinstance(body, list) and step < len(body)
        if is_index or (isinstance(body, dict) and step in body):
            place.append(step)
            body = body[step]
        elif is_last and kind == "missing":
            place.append(step)
    return place


def _missing(fault: _Fault) -> tuple[str, str | None]:
    return f"Missing required parameter: '{fault.param}'.", "missing_required_parameter"


def _unknown(fault: _Fault) -> tuple[str, str | None]:
    if fault.is_unknown_argument:
        return f"Unrecognized request argument supplied: {fault.param}", None
    hint = f" {fault.sentence}" if "near" in fault.context else ""
    return f"Unknown parameter: '{fault.param}'.{hint}", "unknown_parameter"


def _wrong_type(fault: _Fault) -> tuple[str, str | None]:
    kind = fault.kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    expected = EXPECTED.get(kind, "another type")
    found = FOUND.get(type(fault.value), "something else")
    return f"Invalid type for '{fault.param}': expected {expected}, but got {found} instead.", "invalid_type"


def _out_of_bounds(fault: _Fault) -> tuple[str, str | None]:
    (name, bound), *_ = fault.context.items()
    sign, side, code = BOUNDS[name]
    kind = "decimal" if isinstance(bound, float) else "integer"
    limit = int(bound) if bound == int(bound) else bound
    message = f"Invalid '{fault.param}': {side} value. Expected a value {sign} {limit}, but got {fault.shown} instead."
    return message, f"{kind}_{code}"


def _wrong_length(fault: _Fault) -> tuple[str, str | None]:
    noun = "string" if isinstance(fault.value, str) else "object" if isinstance(fault.value, dict) else "array"
    is_short = fault.kind.endswith("too_short")
    bound = fault.context["min_length" if is_short else "max_length"]
    side, limit = ("short", "minimum") if is_short else ("long", "maximum")
    message = (
        f"Invalid '{fault.param}': {noun} too {side}. Expected {ARTICLE[noun]} with {limit} length {bound}, "
        f"but got {ARTICLE[noun]} with length {len(fault.value)} instead."
    )
    return message, f"{noun}_{'below_min' if is_short else 'above_max'}_length"


def _wrong_choice(fault: _Fault) -> tuple[str, str | None]:
    expected = fault.context.get("expected") or fault.context.get("expected_tags")
    return f"Invalid value: {fault.shown} for '{fault.param}'. Supported values are: {expected}.", "invalid_value"


def _other(fault: _Fault) -> tuple[str, str | None]:
    return f"Invalid value for '{fault.param}': {fault.shown}. {fault.sentence}.", "invalid_value"


#: From the names of pydantic's errors to who words them. Whatever is not here is worded by `_other`.
WORDS: tuple[tuple[str, Callable[[_Fault], tuple[str, str | None]]], ...] = (
    ("missing", _missing),
    ("extra_forbidden", _unknown),
    ("(string|int|float|bool|list|tuple|dict|model|model_attributes)_type", _wrong_type),
    ("(int|float|bool)_parsing|int_from_float", _wrong_type),
    ("(greater|less)_than(_equal)?", _out_of_bounds),
    ("(string_)?too_(short|long)", _wrong_length),
    ("literal_error|enum|union_tag_invalid", _wrong_choice),
)

#: Faults of a thing whose `type` says what it is, and what they are faults of that field.
UNTAGGED = {"union_tag_not_found": "missing", "union_tag_invalid": "union_tag_invalid"}

EXPECTED = {
    "string": "a string",
    "int": "an integer",
    "float": "a decimal",
    "bool": "a boolean",
    "list": "an array",
    "tuple": "an array",
    "dict": "an object",
    "model": "an object",
    "model_attributes": "an object",
}
FOUND: dict[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
BOUNDS = {
    "ge": (">=", "below minimum", "below_min_value"),
    "gt": (">", "below minimum", "below_min_value"),
    "le": ("<=", "above maximum", "above_max_value"),
    "lt": ("<", "above maximum", "above_max_value"),
}
ARTICLE = {"string": "a string", "array": "an array", "object": "an object"}
