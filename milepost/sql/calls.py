"""What a plan says: the calls a query needs, the queries that give their parameters, and the text that DuckDB runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

from milepost.errors import Invalid
from milepost.sql.catalog import Column, Method, Table

Value: TypeAlias = str | int | float | bool
Given: TypeAlias = dict[str, Value]
#: Names, and the only rows of values that they have together.
Together: TypeAlias = tuple[tuple[str, ...], frozenset[tuple[Value, ...]]]

#: More ids than these are looked for in a list, if there is one: a page has 100 rows, and an id costs a request.
BY_ID = 200

#: What Python has for a scalar type of the catalog.
PYTHON: dict[str, tuple[type, ...]] = {"integer": (int,), "number": (int, float), "boolean": (bool,)}


@dataclass(frozen=True, slots=True)
class Call:
    """One request, or as many as the pages of one list. Two that are equal are sent once.

    `is_repeatable` is for a POST that changes nothing though its method could; `may_be_missing` for a parent that was
    not asked for by name: a 404 is no rows then.
    """

    provider: str
    method: Method
    arguments: tuple[tuple[str, Any], ...]
    limit: int | None = None
    is_repeatable: bool = False
    may_be_missing: bool = False

    @property
    def is_safe(self) -> bool:
        """Whether it may be sent again."""
        return self.is_repeatable or self.method.http == "GET" or self.method.verb == "SELECT"


@dataclass(frozen=True, slots=True)
class Values:
    """A query whose rows are values of parameters, one column each; `needs` must be there before it can run."""

    names: tuple[str, ...]
    sql: str
    needs: frozenset[str]
    shown: str


@dataclass(frozen=True, slots=True)
class Material:
    """A subquery that gives parameters: it is computed once, so that what was asked for is also what is joined."""

    relation: str
    sql: str
    needs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Read:
    """One occurrence of a table: which method is called with which values, and what its rows keep of them.

    `wanted` are the table's columns that the query can see. `fixed` are values that the statement holds, `is_borrowed`
    if it holds another column to them, `together` where it writes them in rows; `values` give the rest. Names in `sent`
    go to the API, names in `echoed` are hidden columns of the rows. `otherwise` is the list that has the same rows, for
    ids that turn out to be many.
    """

    relation: str
    provider: str
    table: Table
    method: Method
    wanted: tuple[Column, ...]
    hidden: tuple[Column, ...]
    fixed: Mapping[str, frozenset[Value]]
    together: tuple[Together, ...]
    values: tuple[Values, ...]
    sent: frozenset[str]
    echoed: frozenset[str]
    limit: int | None
    is_borrowed: bool = False
    otherwise: Read | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.wanted, *self.hidden)

    @property
    def shown(self) -> str:
        return f"{self.provider}.{self.table.service}.{self.table.resource}"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(values.needs for values in self.values))


@dataclass(frozen=True, slots=True)
class Fixed:
    """Rows that are there already, such as the answers that RETURNING is over."""

    relation: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    needs: frozenset[str] = frozenset()


Step: TypeAlias = Read | Material | Fixed


@dataclass(frozen=True, slots=True)
class Calls:
    """Functions of a query that call an API: whose, and the token by which they find their statement."""

    provider: str
    token: str


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` in an order in which each has what it needs before it. `is_simple` if it is one SELECT and no more.

    `checks` count the rows that are shown, by their status; `calls` are those that functions in it make.
    """

    sql: str
    steps: tuple[Step, ...]
    is_simple: bool = False
    checks: tuple[str, ...] = ()
    calls: Calls | None = None

    @property
    def reads(self) -> tuple[Read, ...]:
        return tuple(step for step in self.steps if isinstance(step, Read))


def calls_now(read: Read, rows: Sequence[Sequence[tuple[Value | None, ...]]]) -> list[tuple[Call, Given]]:
    """The calls, now that the values are there: by id, or the list where there are too many ids, or some that are no
    texts: DuckDB would find 7 in '07'.
    """
    if read.otherwise and any(not isinstance(one, str | None) for found in rows for row in found for one in row):
        return list(calls_of(read.otherwise, ()))
    made = list(calls_of(read, rows))
    return made if read.otherwise is None or len(made) <= BY_ID else list(calls_of(read.otherwise, ()))


def calls_of(read: Read, rows: Sequence[Sequence[tuple[Value | None, ...]]]) -> Iterator[tuple[Call, Given]]:
    """One call for each choice of values, and what its rows keep of them; `rows` are those of each of `read.values`."""
    names = [name for values in read.values for name in values.names]
    for fixed, *parts in product(fixed_of(read), *(dict.fromkeys(found) for found in rows)):
        chosen = {**fixed, **dict(zip(names, (value for part in parts for value in part), strict=True))}
        given: Given = {name: value for name, value in chosen.items() if value is not None}
        if len(given) < len(chosen):
            continue  # NULL equals nothing
        arguments = {name: fit(read, name, given[name]) for name in read.sent}
        if any(value == "" and f"{{{name}}}" in read.method.url for name, value in arguments.items()):
            continue  # nothing has an empty id
        yield (
            Call(
                read.provider,
                read.method,
                tuple(sorted(arguments.items())),
                read.limit,
                may_be_missing=read.is_borrowed,
            ),
            {name: arguments.get(name, given[name]) for name in read.echoed if name in given},
        )


def fixed_of(read: Read) -> Iterator[dict[str, Value]]:
    """Every choice of the values in the statement: each with each, but of rows only those that are written."""
    nothing: Together = ((), frozenset({()}))
    written, rows = read.together[0] if read.together else nothing
    rest = [name for name in read.fixed if name not in written]
    others = [[(value,) for value in sorted(read.fixed[name], key=str)] for name in rest]
    for parts in product(sorted(rows, key=str), *others):
        chosen = dict(zip((*written, *rest), (value for part in parts for value in part), strict=True))
        is_held = all(chosen[name] in read.fixed[name] for name in written)
        if is_held and all(tuple(chosen[name] for name in names) in among for names, among in read.together):
            yield chosen


def fit(read: Read, name: str, value: Value) -> Value:
    """The value as the parameter's type wants it."""
    parameter = read.method.parameter(name)
    kind = parameter.type if parameter else "string"
    if kind == "integer" and isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    if kind in ("string", "any") and not isinstance(value, str):
        return str(value)
    is_empty = value == "" and f"{{{name}}}" not in read.method.url
    if is_empty or not isinstance(value, PYTHON.get(str(kind), (str,))):
        raise Invalid(f"`{name}` of `{read.shown}` wants {kind}, got {value!r}", param=name)
    return value
