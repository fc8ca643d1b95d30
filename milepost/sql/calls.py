"""What a plan says: the calls a query needs, and the text that DuckDB runs over what they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from milepost.sql.catalog import Column, Method, Table

Value: TypeAlias = str | int | float | bool
Given: TypeAlias = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, or as many as the pages of one list. Two that are equal are sent once."""

    provider: str
    method: Method
    arguments: tuple[tuple[str, Value], ...]
    limit: int | None


@dataclass(frozen=True, slots=True)
class Read:
    """One occurrence of a table: what to call, and with what echo of its parameters the rows are kept."""

    relation: str
    table: Table
    hidden: tuple[Column, ...]
    calls: tuple[tuple[Call, Given], ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.table.columns, *self.hidden)


@dataclass(frozen=True, slots=True)
class Plan:
    sql: str
    reads: tuple[Read, ...]
