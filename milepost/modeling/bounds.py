"""The sandbox chat templates run in, with bounds: a template came with its base, and is a stranger's program.

jinja2's sandbox keeps it from attributes it has no business with, and from changing what it is given. It bounds
`range`, and nothing else: `"a" * 10**9`, three loops in each other or a padding of a billion would take the server's
memory and time as well. So texts and lists have a greatest length, numbers given to filters and methods a greatest
value, and a rendering so much time of a processor, which is looked at in every step of a loop and every call.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Characters of a text, items of a list. A context of 128 thousand tokens has half a million characters.
MOST_LENGTH = 8_000_000
#: A number given to a filter or a method: a width, a count.
MOST_NUMBER = 10_000
#: Digits of a power.
MOST_BITS = 10_000
#: Seconds of processor time of a rendering. A long conversation takes some milliseconds.
MOST_S = 5.0

#: A width of five digits, or one that is given beside the text.
_WIDE = re.compile(r"\d{5,}|%[^a-zA-Z%]*\*")


class Bounded(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, in which no operation gives more than its bound."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = threading.local()
        self.filters = {name: self._bounded(name, function) for name, function in self.filters.items()}
        self.filters |= {"_each": self._each, "_joined": self._joined}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        self.filters[name] = self._bounded(name, function)

    def run(self, template: jinja2.Template, **values: Any) -> str:
        """Render within the bounds; raises `SecurityError` beyond them."""
        self._local.deadline = time.thread_time() + MOST_S
        pieces, length = [], 0
        for piece in template.generate(**values):
            length += len(piece)
            _require(length, MOST_LENGTH, "a text")
            pieces.append(piece)
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _BOUND[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        given = (*args, *kwargs.values())
        if isinstance(obj, LoopContext):
            args = tuple(self._each(each) for each in args)
        elif obj is not self.globals.get("range"):
            _check_use(name, (owner, *given) if isinstance(owner, str) else given)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _require_narrow(value.__self__)
        return wrapped

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Loops look at the clock, and `~` at the length of what it makes."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "_each")
        self._bound_concats(tree)
        return tree

    def _bound_concats(self, node: nodes.Node) -> None:
        for name, value in list(node.iter_fields()):
            if isinstance(value, list):
                setattr(node, name, [self._bound(each) if isinstance(each, nodes.Node) else each for each in value])
            elif isinstance(value, nodes.Node):
                setattr(node, name, self._bound(value))

    def _bound(self, node: nodes.Node) -> nodes.Node:
        self._bound_concats(node)
        if isinstance(node, nodes.Concat):
            return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_joined")
        return node

    def _tick(self) -> None:
        if time.thread_time() > getattr(self._local, "deadline", float("inf")):
            raise SecurityError(f"it takes more than {MOST_S:g} s of a processor")

    def _each(self, iterable: Iterable[Any]) -> Iterator[Any]:
        for each in iterable:
            self._tick()
            yield each

    @staticmethod
    def _joined(parts: Iterable[Any]) -> str:
        texts = [str(part) for part in parts]
        _require(sum(map(len, texts)), MOST_LENGTH, "a text")
        return "".join(texts)

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # with what jinja2 has marked it with: whether it takes the environment
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            _check_use(name, (*args, *kwargs.values()))
            result = function(*args, **kwargs)
            if isinstance(result, str):
                _require(len(result), MOST_LENGTH, "a text")
            return result

        return bounded


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _require(found: int, most: int, what: str) -> None:
    if found > most:
        raise SecurityError(f"it makes {what} longer than {most:,}")


def _check_use(name: str, given: tuple[Any, ...]) -> None:
    """What a filter or method is given must be within bounds, and what it will make of it."""
    for value in given:
        if isinstance(value, int) and abs(value) > MOST_NUMBER:
            raise SecurityError(f"it asks `{name}` for {value}, more than {MOST_NUMBER:,}")
    texts = [value for value in given if isinstance(value, str)]
    if (make := _MAKES.get(name)) is not None and texts:
        _require(make(texts, given), MOST_LENGTH, "a text")
    if name == "format" and texts:
        _require_narrow(texts[0])


def _require_narrow(text: str) -> None:
    if _WIDE.search(text):
        raise SecurityError("it formats with a width of more than four digits")


def _replaced(texts: list[str], _given: tuple[Any, ...]) -> int:
    whole, old, new = (*texts, "", "")[:3]
    return len(whole) + (whole.count(old) if old else len(whole) + 1) * len(new)


def _spread(texts: list[str], given: tuple[Any, ...]) -> int:
    width = max((value for value in given if isinstance(value, int)), default=8)
    return len(texts[0]) + (texts[0].count("\t") + texts[0].count("\n") + 1) * width


def _together(texts: list[str], given: tuple[Any, ...]) -> int:
    items = next((value for value in given if isinstance(value, list | tuple)), ())
    return sum(len(item) if isinstance(item, str) else 0 for item in items) + len(items) * len(texts[0])


#: How long a text the methods and filters make that can make more than they are given.
_MAKES: Mapping[str, Callable[[list[str], tuple[Any, ...]], int]] = {
    "replace": _replaced,
    "expandtabs": _spread,
    "indent": _spread,
    "join": _together,
}


def _times(left: Any, right: Any) -> None:
    for sized, number in ((left, right), (right, left)):
        if isinstance(sized, str | list | tuple) and isinstance(number, int):
            _require(len(sized) * number, MOST_LENGTH, "a text or list")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > MOST_BITS:
        raise SecurityError("it computes with numbers of thousands of digits")


def _power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MOST_BITS:
        raise SecurityError("it computes with numbers of thousands of digits")


def _plus(left: Any, right: Any) -> None:
    if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _require(len(left) + len(right), MOST_LENGTH, "a text or list")


def _format(left: Any, _right: Any) -> None:
    if isinstance(left, str):
        _require_narrow(left)


_BOUND: Mapping[str, Callable[[Any, Any], None]] = {"*": _times, "**": _power, "+": _plus, "%": _format}
