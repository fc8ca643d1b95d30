"""Names: plurals as the API has them, the ones that come near a misspelt one, the ones like a pattern."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from milepost.errors import Invalid

#: Endings of plurals → of their singulars; the first that fits counts.
ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("xes", "x"), ("ss", "ss"), ("s", ""))


def singular(word: str) -> str:
    """`batches` → `batch`; a word that is no plural stays."""
    for plural_ending, ending in ENDINGS:
        if word.endswith(plural_ending):
            return word.removesuffix(plural_ending) + ending
    return word


def plural(word: str) -> str:
    if word.endswith("s"):
        return word
    return word.removesuffix("y") + "ies" if word.endswith("y") else word + "s"


def near(word: str, names: Iterable[str]) -> str:
    """A sentence with the names that come near `word`, or with all of them if they are few; empty if neither."""
    known = sorted(set(names))
    close = get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return f" Did you mean {_listed(close)}?"
    return f" There is {_listed(known, 'and')}." if 0 < len(known) <= 12 else ""


def matches(pattern: str) -> Callable[[str], bool]:
    """SQL's LIKE."""
    expression = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return lambda text: re.fullmatch(expression, text, re.IGNORECASE) is not None


def _listed(names: list[str], conjunction: str = "or") -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {conjunction} {quoted[-1]}"


#: Words of a time → its seconds.
UNITS = {
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86_400.0,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
}


def seconds(text: str) -> float:
    """`600`, `'10 minutes'`, `2s`: a time in seconds. Raises `Invalid` for another text."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = UNITS.get(found[2].lower().removesuffix("s") or "s") if found else None
    if found is None or unit is None:
        raise Invalid(f"`{text}` is no time; write seconds, or '10 minutes', '2h' and their like")
    return float(found[1]) * unit
