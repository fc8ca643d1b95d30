"""`calculate_output` of a multi grader: + - * / ^, parentheses and a few functions over the graders' names.

Read once into a tree of closed terms, never evaluated as code. `^` binds tighter than a sign before it and to the
right: -2^2 is -4, 2^3^2 is 512.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MAX_LENGTH = 4_000
MAX_DEPTH = 50

Values = Mapping[str, float]
Term = Callable[[Values], float]


class FormulaError(Exception):
    """A formula that cannot be read, or has no finite value here."""


def read(formula: str, names: frozenset[str]) -> Term:
    """A function from the graders' rewards to the formula's value. Raises `FormulaError`; so does the function."""
    if len(formula) > MAX_LENGTH:
        raise FormulaError(f"The formula has {len(formula)} characters; {MAX_LENGTH} are read at most")
    reader = _Reader(_tokens(formula), names)
    term = reader.sum(0)
    if not reader.is_at_end:
        raise FormulaError(f"`{reader.next}` is not expected there; an operator or the end is")
    return lambda values: _value(term, values)


def _value(term: Term, values: Values) -> float:
    try:
        value = term(values)
    except (ArithmeticError, ValueError) as error:
        raise FormulaError(f"The formula has no value for {_shown(values)}: {error}") from None
    if isinstance(value, complex) or not math.isfinite(value):
        raise FormulaError(f"The formula has no finite value for {_shown(values)}")
    return float(value)


def _shown(values: Values) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())


FUNCTIONS: Mapping[str, tuple[Callable[..., float], int, int]] = {
    "min": (lambda *values: min(values), 1, 64),
    "max": (lambda *values: max(values), 1, 64),
    "abs": (abs, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "exp": (math.exp, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
}
"""name → (function, fewest and most arguments). `log` is the natural logarithm."""

SUMS: Mapping[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub}
PRODUCTS: Mapping[str, Callable[[float, float], float]] = {"*": operator.mul, "/": operator.truediv}

TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|([-+*/^(),]))")
END = ""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    is_number: bool = False
    is_name: bool = False


def _tokens(formula: str) -> list[_Token]:
    tokens, place, stripped = [], 0, formula.rstrip()
    while place < len(stripped):
        found = TOKEN.match(stripped, place)
        if found is None:
            raise FormulaError(
                f"`{stripped[place:].strip()[:20]}` cannot be read. A formula has numbers, names of graders, "
                f"+ - * / ^, parentheses and {', '.join(FUNCTIONS)}"
            )
        number, name, sign = found.groups()
        tokens.append(_Token(number or name or sign, is_number=bool(number), is_name=bool(name)))
        place = found.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens; each rule takes how deep it stands and gives a term."""

    def __init__(self, tokens: list[_Token], names: frozenset[str]) -> None:
        self._tokens = tokens
        self._names = names
        self._place = 0

    @property
    def is_at_end(self) -> bool:
        return self._place == len(self._tokens)

    @property
    def next(self) -> str:
        return END if self.is_at_end else self._tokens[self._place].text

    def _take(self) -> _Token:
        if self.is_at_end:
            raise FormulaError("The formula breaks off; a number, a name or `(` should follow")
        self._place += 1
        return self._tokens[self._place - 1]

    def _expect(self, text: str) -> None:
        if self.next != text:
            raise FormulaError(f"`{text}` is missing before {f'`{self.next}`' if self.next else 'the end'}")
        self._place += 1

    def sum(self, depth: int) -> Term:
        return self._chain(self._product, SUMS, depth)

    def _product(self, depth: int) -> Term:
        return self._chain(self._signed, PRODUCTS, depth)

    def _chain(
        self, part: Callable[[int], Term], operations: Mapping[str, Callable[[float, float], float]], depth: int
    ) -> Term:
        """Operations of one rank, from left to right: kept flat, so that a long sum is not a deep one."""
        if depth > MAX_DEPTH:
            raise FormulaError(f"The formula is nested more than {MAX_DEPTH} deep")
        first = part(depth)
        rest: list[tuple[Callable[[float, float], float], Term]] = []
        while self.next in operations:
            operation = operations[self._take().text]
            rest.append((operation, part(depth)))

        def value(values: Values) -> float:
            total = first(values)
            for operation, term in rest:
                total = operation(total, term(values))
            return total

        return value if rest else first

    def _signed(self, depth: int) -> Term:
        negative = False
        while self.next in SUMS:
            negative ^= self._take().text == "-"
        term = self._power(depth)
        return (lambda values: -term(values)) if negative else term

    def _power(self, depth: int) -> Term:
        base = self._atom(depth)
        if self.next != "^":
            return base
        if depth > MAX_DEPTH:
            raise FormulaError(f"The formula is nested more than {MAX_DEPTH} deep")
        self._take()
        exponent = self._signed(depth + 1)
        return lambda values: math.pow(base(values), exponent(values))

    def _atom(self, depth: int) -> Term:
        token = self._take()
        if token.is_number:
            number = float(token.text)
            return lambda _: number
        if token.text == "(":
            inside = self.sum(depth + 1)
            self._expect(")")
            return inside
        if not token.is_name:
            raise FormulaError(f"`{token.text}` is not expected there; a number, a name or `(` is")
        if token.text in FUNCTIONS:
            return self._call(token.text, depth)
        if token.text not in self._names:
            raise FormulaError(
                f"`{token.text}` is no grader of this formula; they are {', '.join(sorted(self._names))}"
            )
        return lambda values: values[token.text]

    def _call(self, name: str, depth: int) -> Term:
        function, fewest, most = FUNCTIONS[name]
        self._expect("(")
        arguments = [self.sum(depth + 1)]
        while self.next == ",":
            self._take()
            arguments.append(self.sum(depth + 1))
        self._expect(")")
        if not fewest <= len(arguments) <= most:
            raise FormulaError(
                f"`{name}` takes {'one value' if most == 1 else f'up to {most} values'}, not {len(arguments)}"
            )
        return lambda values: function(*(argument(values) for argument in arguments))
