"""What a statement can be: a query for DuckDB, a change of an API's resources, or one of our own words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from sqlglot import exp

What = Literal["PROVIDERS", "SERVICES", "RESOURCES", "METHODS"]
Triple: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Await:
    """How long to wait, and how often to look; None for what the session has."""

    timeout_s: float | None = None
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Anything DuckDB can select from, with our tables still under their own names."""

    tree: exp.Query
    wait: Await | None = None
    go_on: bool = False


@dataclass(frozen=True, slots=True)
class Show:
    what: What
    of: tuple[str, ...]
    like: str | None
    extended: bool = False


@dataclass(frozen=True, slots=True)
class ShowLocal:
    """Tables or views of one's own."""

    what: Literal["TABLES", "VIEWS"]
    like: str | None


@dataclass(frozen=True, slots=True)
class DescribeLocal:
    name: str


@dataclass(frozen=True, slots=True)
class ShowInsert:
    table: Triple


@dataclass(frozen=True, slots=True)
class Describe:
    """A table; with a method, what that method takes and gives."""

    table: Triple
    extended: bool
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """One call for each row of `rows`; without `columns` the rows name them."""

    table: Triple
    columns: tuple[str, ...]
    rows: exp.Query
    returning: exp.Select | None
    wait: Await | None = None
    go_on: bool = False
    verb: str = "INSERT"


@dataclass(frozen=True, slots=True)
class Change:
    """UPDATE or DELETE of the rows that `rows` selects; `sets` are new values, read over those rows."""

    verb: Literal["UPDATE", "DELETE"]
    table: Triple
    rows: exp.Select
    sets: tuple[tuple[str, exp.Expr], ...]
    returning: exp.Select | None
    go_on: bool = False


@dataclass(frozen=True, slots=True)
class Exec:
    """One call of a method with the values of `arguments`, a SELECT of one row."""

    table: Triple
    method: str
    arguments: exp.Select
    returning: exp.Select | None
    wait: Await | None = None
    go_on: bool = False
    verb: str = "EXEC"


@dataclass(frozen=True, slots=True)
class Explain:
    statement: Query | Insert | Change | Exec
    analyze: bool


@dataclass(frozen=True, slots=True)
class Create:
    """A view, a materialized view or a table of DuckDB's own, from a query; `tree` is the whole statement."""

    kind: Literal["VIEW", "MATERIALIZED VIEW", "TABLE"]
    tree: exp.Create


@dataclass(frozen=True, slots=True)
class Refresh:
    view: str


@dataclass(frozen=True, slots=True)
class Local:
    """A change of DuckDB's own tables; `query` is the part that may read ours."""

    tree: exp.Expr
    query: exp.Query | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    url: str
    name: str
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Detach:
    name: str


Write: TypeAlias = Insert | Change | Exec
Statement: TypeAlias = (
    Query
    | Show
    | ShowInsert
    | ShowLocal
    | Describe
    | DescribeLocal
    | Write
    | Explain
    | Create
    | Refresh
    | Local
    | Attach
    | Detach
)
