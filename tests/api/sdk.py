"""The SDK's methods by route: what they send, what they get."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import openai
from openai import AsyncStream

from milepost.sql.catalog import Method, shipped

ROOTS = ("openai", "openai_admin")


class SdkMethod(NamedTuple):
    """`row` is the type of what comes back: of one item, if it is a list; None for bytes."""

    method: Method
    hints: dict[str, Any]
    row: Any
    is_list: bool


@cache
def methods() -> dict[tuple[str, str], SdkMethod]:
    """(verb, path) → the SDK's method; a path's parameters have no names."""
    client = openai.AsyncOpenAI(api_key="-", admin_api_key="-")
    tables = [shipped().table(*name.split(".")) for root in ROOTS for name in shipped().names(root)]
    known = [method for table in tables for method in table.methods]
    found: dict[tuple[str, str], SdkMethod] = {}
    for method in sorted(
        known, key=lambda method: method.path.startswith("beta.")
    ):  # older names of the same come last
        found.setdefault((method.http, nameless(method.url)), _sdk_method(client, method))
    return found


def nameless(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path.partition("?")[0])


def _sdk_method(client: openai.AsyncOpenAI, method: Method) -> SdkMethod:
    *owners, name = method.path.split(".")
    resource: Any = client
    for owner in owners:
        resource = getattr(resource, owner)
    hints = get_type_hints(getattr(type(resource), name))
    answer = hints["return"]
    if get_origin(answer) is Union:  # streamed or whole
        answer = next(member for member in get_args(answer) if get_origin(member) is not AsyncStream)
    is_list = bool(get_args(answer))
    row = get_args(answer)[0] if is_list else answer
    return SdkMethod(method, hints, None if "BinaryResponse" in getattr(row, "__name__", "") else row, is_list)
