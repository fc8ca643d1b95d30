"""Cursor pages, the same for every list: `after` is the id of the last item seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, Table, select, tuple_

from milepost.resources.base import Page

Item = TypeVar("Item")


def read_page(
    connection: Connection,
    table: Table,
    make: Callable[[Row[tuple[object, ...]]], Item],
    *,
    query: Select[tuple[object, ...]] | None = None,
    scope: ColumnElement[bool],
    filters: Sequence[ColumnElement[bool]] = (),
    keys: Sequence[Column[object]],
    descending: bool = True,
    after: str | None,
    limit: int,
) -> Page[Item]:
    """Read one page of the rows in `scope` that pass `filters`, ordered by `keys`; `query` reads more than the table.

    The cursor is looked up in the scope only: a row that no longer passes the filters (deleted while a client pages
    on) still tells where the page begins. An unknown cursor is an empty page, never an error: SDKs' own tests send one.
    """
    query = (select(table) if query is None else query).where(scope, *filters)
    if after is not None:
        cursor = connection.execute(select(*keys).where(scope, table.c.id == after)).one_or_none()
        if cursor is None:
            return Page(data=(), has_more=False)
        here = tuple_(*keys)
        query = query.where(here < tuple(cursor) if descending else here > tuple(cursor))
    order = [key.desc() if descending else key.asc() for key in keys]
    limit = max(limit, 0)
    rows = connection.execute(query.order_by(*order).limit(limit + 1)).all() if limit else []
    shown = rows[:limit]
    return Page(
        data=tuple(make(row) for row in shown),
        has_more=len(rows) > limit,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )
