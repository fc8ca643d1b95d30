"""What a statement did that is not a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milepost.errors import Remote


@dataclass(frozen=True, slots=True)
class Outcome:
    """`values` are the API's answers, `value` the last of them; `errors` those that ON ERROR CONTINUE went on after."""

    message: str
    value: dict[str, Any]
    values: tuple[dict[str, Any], ...] = ()
    errors: tuple[Remote, ...] = ()
