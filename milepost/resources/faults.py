"""Faults: what can be wrong with a line of training data, each with what would mend it.

A fault is an error if the line cannot be used and fails the job; it is a warning if the line can be trained on, but
hardly as it was meant. Where it is not known whether OpenAI refuses a thing, it is a warning: files that were trained
there are to train here.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What people call the keys elsewhere: ShareGPT, Alpaca, Anthropic, older drafts of OpenAI's specification.
KEY_NAMES = {
    "conversations": "messages",
    "conversation": "messages",
    "dialogue": "messages",
    "from": "role",
    "value": "content",
    "text": "content",
    "instruction": "prompt",
    "question": "prompt",
    "response": "completion",
    "answer": "completion",
    "chosen": "preferred_output",
    "rejected": "non_preferred_output",
    "preferred_completion": "preferred_output",
    "non_preferred_completion": "non_preferred_output",
}

JSON_NAMES: dict[type, str] = {
    str: "a string",
    list: "a list",
    dict: "a dictionary",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` is one word for programs, `reason` says what is wrong, `fix` what would mend it."""

    kind: str
    reason: str
    fix: str
    is_warning: bool = False


Faults = Iterator[Fault]
Messages = Sequence[Mapping[str, Any]]


def shown(value: Any, longest: int = 60) -> str:
    """A value of the user's as an error shows it: short, whatever was sent."""
    text = repr(value[: longest + 1] if isinstance(value, str | list) else value)
    return text if len(text) <= longest + 3 else f"{text[:longest]}…"


def names(keys: Iterable[str]) -> str:
    found = [f'"{key[:60]}"' for key in keys]
    return ", ".join(found[:8]) + (" …" if len(found) > 8 else "") if found else "no keys"


def near(name: str, known: Collection[str]) -> str | None:
    """The known name that was probably meant."""
    elsewhere = KEY_NAMES.get(name.lower())
    if elsewhere in known:
        return elsewhere
    found = difflib.get_close_matches(name.lower()[:60], list(known), n=1, cutoff=0.7)
    return found[0] if found else None


def extra(value: Mapping[str, Any], known: Collection[str], where: str) -> Faults:
    for key in value:
        if key not in known:
            meant = near(key, [name for name in known if name not in value])
            fix = f'Rename "{key[:60]}" to "{meant}"' if meant else f'Remove "{key[:60]}"'
            yield Fault("extra_key", f'{where}contains an extra "{key[:60]}"', fix)


def wrong(value: Any, kind: type, name: str, fix: str) -> Faults:
    """`value` is there and of its kind, or a fault says which it is not."""
    if value is None:
        yield Fault("missing", f"{name} is missing", fix)
    elif not isinstance(value, kind):
        yield Fault(
            "wrong_type",
            f"{name} is not {JSON_NAMES[kind]}",
            f"{fix}; {JSON_NAMES.get(type(value), 'something else')} stands there now",
        )


def unlike(value: Any, kind: type, name: str) -> Faults:
    """As `wrong`, for what may be left out."""
    if value is not None:
        yield from wrong(value, kind, name, f"Make it {JSON_NAMES[kind]}, or leave it out")
