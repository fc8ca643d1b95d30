"""DuckDB's part: what came from the APIs is registered under the query's own names, and DuckDB does the rest.

One database per session, one cursor per query: a cursor with an unread result can do nothing else. A query is first
bound to empty relations, so that a misspelt column costs no request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import duckdb

from milepost.errors import Exhausted, Invalid
from milepost.sql import shapes
from milepost.sql.calls import Plan

if TYPE_CHECKING:
    import pyarrow as pa

P = ParamSpec("P")
T = TypeVar("T")

BATCH_ROWS = 10_000


class Rows:
    """A query whose tables are there; it runs when it is read, once. `columns` are in SELECT order, each name once."""

    def __init__(
        self, cursor: duckdb.DuckDBPyConnection, plan: Plan, columns: tuple[str, ...], types: list[Any]
    ) -> None:
        self.columns = columns
        self._cursor = cursor
        self._plan = plan
        self._types = types

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows as Arrow, as they are made; JSON is text here."""
        try:
            stream = await self._run(lambda: self._cursor.sql(self._plan.sql).to_arrow_reader(BATCH_ROWS))
            while batch := await self._run(next, stream, None):
                yield batch.rename_columns(list(self.columns))
        finally:
            self._cursor.close()

    async def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows as Python values: a STRUCT is a dict, JSON is what it says."""
        try:
            rows = await self._run(lambda: self._cursor.execute(self._plan.sql).fetchall())
        finally:
            self._cursor.close()
        readers = [shapes.reader(kind) for kind in self._types]
        if not any(readers):
            return rows
        return [tuple(read(v) if read else v for v, read in zip(row, readers, strict=True)) for row in rows]

    async def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in await self.fetchall()]

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _in_thread(self._cursor, self._plan, function, *args, **kwargs)


def connect(*, external_access: bool) -> duckdb.DuckDBPyConnection:
    """A database in memory. Without external access no file, no address and no setting can be reached from SQL.

    Python's variables are never tables: DuckDB would look for them in our own frames.
    """
    database = duckdb.connect(":memory:", config={"python_enable_replacements": "false"})
    if not external_access:
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
    return database


#: What makes a statement more than DuckDB's own: a name with dots, a value to fill in, a function we read otherwise.
OURS = re.compile(r"[.$?]|\{\{|\b(date|datetime|json_extract|strftime)\b", re.IGNORECASE)
READS = re.compile(r"\s*(select|with|from|values|table)\b", re.IGNORECASE)


def is_duckdbs_own(sql: str) -> bool:
    """Whether the statement reads and can name nothing of ours: then DuckDB gets it as it was written."""
    return READS.match(sql) is not None and OURS.search(sql) is None


async def bind(cursor: duckdb.DuckDBPyConnection, plan: Plan) -> Rows:
    """The query over empty tables: raises `Invalid` for what DuckDB will not run, before anything is fetched."""
    return await _in_thread(cursor, plan, _bind, cursor, plan)


def fill(cursor: duckdb.DuckDBPyConnection, tables: dict[str, pa.Table]) -> None:
    """Put what was fetched in the place of the empty tables (relation → table)."""
    for name, table in tables.items():
        cursor.register(_raw(name), table)


def _bind(cursor: duckdb.DuckDBPyConnection, plan: Plan) -> Rows:
    for read in plan.reads:
        from milepost.sql import arrow

        cursor.register(_raw(read.relation), arrow.schema(read.columns).empty_table())
        cursor.execute(
            f"CREATE TEMP VIEW {shapes.quoted(read.relation)} AS "  # noqa: S608 (names of ours, quoted)
            f"SELECT {shapes.projection(read.columns)} FROM {shapes.quoted(_raw(read.relation))}"
        )
    kinds = [statement.type for statement in cursor.extract_statements(plan.sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise Invalid(f"Expected one SELECT, got {' and '.join(kind.name for kind in kinds) or 'nothing'}")
    relation = cursor.sql(plan.sql)
    return Rows(cursor, plan, tuple(_unique(relation.columns)), relation.types)


def _unique(names: Iterable[str]) -> Iterable[str]:
    """The names, each once: of two `id` the second is `id_1`, as DuckDB's own clients have it."""
    seen: set[str] = set()
    for name in names:
        unique, count = name, 0
        while unique in seen:
            count += 1
            unique = f"{name}_{count}"
        seen.add(unique)
        yield unique


def _raw(relation: str) -> str:
    return f"{relation}_raw"


async def _in_thread(
    cursor: duckdb.DuckDBPyConnection, plan: Plan, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run it off the loop; a caller that gives up interrupts DuckDB. DuckDB's errors become ours."""
    task = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # again and again: an interrupt before the thread has begun is lost
            cursor.interrupt()
            await asyncio.wait([task], timeout=0.05)
        raise
    except duckdb.OutOfMemoryException as error:
        raise Exhausted(_readable(error, plan)) from None
    except duckdb.Error as error:
        raise Invalid(_readable(error, plan)) from None


def _readable(error: duckdb.Error, plan: Plan) -> str:
    """DuckDB's sentence, without the line of SQL that we wrote and with the names the user wrote."""
    text = str(error).partition("\n\nLINE ")[0]
    for read in plan.reads:
        text = text.replace(read.relation, read.table.resource)
    return " ".join(text.split())
