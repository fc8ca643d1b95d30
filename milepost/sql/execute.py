"""DuckDB's part: what came from the APIs is registered under the query's own names, and DuckDB does the rest.

One database per session, one cursor per query: a cursor with an unread result can do nothing else.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import duckdb

from milepost.errors import Error, Exhausted, Invalid, Remote
from milepost.sql import shapes
from milepost.sql.calls import Fixed, Material, Plan, Read

if TYPE_CHECKING:
    import pyarrow as pa

    from milepost.sql.catalog import Column
    from milepost.sql.fetch import Fetcher, Spent
    from milepost.sql.functions import Asking
    from milepost.sql.stream import Stream

P = ParamSpec("P")
T = TypeVar("T")

BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Bound:
    """What DuckDB says of a query before it runs."""

    columns: tuple[str, ...]
    types: tuple[Any, ...]
    plan: str = ""


class Rows:
    """A query whose tables are there; it runs when it is read, once. `columns` are in SELECT order, each name once.

    `types` are DuckDB's; `schema` is Arrow's, once `batches` has begun. `errors` are those that ON ERROR CONTINUE left
    out; the list is complete when the rows have been read.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        plan: Plan,
        bound: Bound,
        *,
        stream: Stream | None,
        fetcher: Fetcher | None,
        asking: Asking | None,
    ) -> None:
        self.columns = bound.columns
        self.errors: list[Remote] = fetcher.errors if fetcher else []
        self.spent: dict[str, Spent] = fetcher.spent if fetcher else {}
        self._cursor = cursor
        self._plan = plan
        self.types = bound.types
        self.schema: Any = None
        self._stream = stream
        self._asking = asking

    async def batches(self) -> AsyncIterator[pa.RecordBatch]:
        """The rows as Arrow, as they are made; JSON is text here."""
        async with self._reading():
            stream = await self._run(lambda: self._cursor.sql(self._plan.sql).to_arrow_reader(BATCH_ROWS))
            self.schema = stream.schema.empty_table().rename_columns(list(self.columns)).schema
            while batch := await self._run(next, stream, None):
                yield batch.rename_columns(list(self.columns))

    async def fetchall(self) -> list[tuple[Any, ...]]:
        """The rows as Python values: a STRUCT is a dict, JSON is what it says."""
        async with self._reading():
            rows = await self._run(lambda: self._cursor.execute(self._plan.sql).fetchall())
        return self._as_values(rows)

    async def chunks(self) -> AsyncGenerator[list[tuple[Any, ...]], None]:
        """As `fetchall`, some thousand rows at a time as they are made; whoever stops early closes it."""
        async with self._reading():
            await self._run(self._cursor.execute, self._plan.sql)
            while rows := await self._run(self._cursor.fetchmany, BATCH_ROWS):
                yield self._as_values(rows)

    async def dicts(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in await self.fetchall()]

    async def look(self, sql: str) -> list[tuple[Any, ...]]:
        """What another query says of the same tables; the rows can still be read."""
        return await self._run(lambda: self._cursor.execute(sql).fetchall())

    async def into(self, prefix: str, *after: str) -> list[tuple[Any, ...]]:
        """Run the query with this before it, then the statements after it, all or nothing; what the first one gave."""
        async with self._reading():
            rows = await self._run(lambda: self._cursor.execute(f"{prefix} {self._plan.sql}").fetchall())
            for statement in after:
                await self._run(self._cursor.execute, statement)
            await self._run(self._cursor.commit)
        return rows

    async def aclose(self) -> None:
        """Give up rows that are not wanted: what is in flight ends."""
        if self._stream:
            await self._stream.aclose()
        if self._asking:
            self._asking.cancel()
        self._cursor.close()

    def _as_values(self, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        readers = [shapes.reader(kind) for kind in self.types]
        if not any(readers):
            return rows
        return [tuple(read(v) if read else v for v, read in zip(row, readers, strict=True)) for row in rows]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        try:
            if self._stream:
                put(self._cursor, self._plan.reads[0], self._stream.reader())
            yield
        except Error:
            for source in (self._stream, self._asking):
                if source and source.error:
                    raise source.error from None
            raise
        finally:
            await self.aclose()
        if self._stream and self._stream.error:
            raise self._stream.error

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await interruptible(self._interrupt, self._plan, function, *args, **kwargs)

    def _interrupt(self) -> None:
        if self._asking:
            self._asking.cancel()
        self._cursor.interrupt()


def connect(path: Path | None, *, external_access: bool) -> duckdb.DuckDBPyConnection:
    """A database in memory, or in a file. Without external access SQL reaches no file, no address and no setting.

    Python's variables are never tables: DuckDB would look for them in our own frames.
    """
    try:
        database = duckdb.connect(str(path or ":memory:"), config={"python_enable_replacements": "false"})
    except duckdb.Error as error:
        raise Invalid(f"Cannot open {path} as a database: {str(error).partition(chr(10))[0]}") from None
    if not external_access:
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
    return database


#: What makes a statement more than DuckDB's own: a name with dots, a value to fill in, a function we read otherwise.
OURS = re.compile(
    r"[.$?]|\{\{|\b(date|datetime|json_extract|strftime|file|to_jsonl|chat|string_check|text_similarity|grade|continue)\b",
    re.IGNORECASE,
)
READS = re.compile(r"\s*(select|with|from|values|table)\b", re.IGNORECASE)


def is_duckdbs_own(sql: str) -> bool:
    """Whether the statement reads and can name nothing of ours: then DuckDB gets it as it was written."""
    return READS.match(sql) is not None and OURS.search(sql) is None


def bind(cursor: duckdb.DuckDBPyConnection, plan: Plan) -> Bound:
    """The query over empty tables, in a transaction that stays open."""
    cursor.begin()
    for step in plan.steps:
        if isinstance(step, Material):
            cursor.execute(f"CREATE TEMP VIEW {shapes.quoted(step.relation)} AS {step.sql}")
        else:
            _bind_rows(cursor, step)
    kinds = [statement.type for statement in cursor.extract_statements(plan.sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise Invalid(f"Expected one SELECT, got {' and '.join(kind.name for kind in kinds) or 'nothing'}")
    relation = cursor.sql(plan.sql)
    return Bound(tuple(_unique(relation.columns)), tuple(relation.types))


def explain(cursor: duckdb.DuckDBPyConnection, plan: Plan) -> Bound:
    """What DuckDB would do, over empty tables."""
    bound = bind(cursor, plan)
    text = "\n".join(str(line[-1]) for line in cursor.execute(f"EXPLAIN {plan.sql}").fetchall())
    return Bound(bound.columns, bound.types, text)


def change(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a statement of DuckDB's own: the names and rows of what it returns."""
    cursor.execute(sql)
    names = [str(column[0]) for column in cursor.description or ()]
    return names, cursor.fetchall() if names else []


def _bind_rows(cursor: duckdb.DuckDBPyConnection, step: Read | Fixed) -> None:
    if isinstance(step, Fixed) and all(
        isinstance(column.type, str) and column.type in shapes.DUCKDB for column in step.columns
    ):
        _insert(cursor, step)
        return
    if isinstance(step, Fixed):
        from milepost.sql import arrow  # it imports pandas, where that is installed

        cursor.register(_raw(step.relation), arrow.rows_of(step.columns, step.rows, "the API"))
    else:
        for values in step.values:
            cursor.sql(values.sql)
        _empty(cursor, _raw(step.relation), step.columns)
    cursor.execute(
        f"CREATE TEMP VIEW {shapes.quoted(step.relation)} AS "  # noqa: S608 (names of ours, quoted)
        f"SELECT {shapes.projection(step.columns)} FROM {shapes.quoted(_raw(step.relation))}"
    )


def _insert(cursor: duckdb.DuckDBPyConnection, step: Fixed) -> None:
    """Rows of plain values, without Arrow: SHOW answers before that would be imported."""
    name = shapes.quoted(step.relation)
    _empty(cursor, step.relation, step.columns)
    if step.rows:
        places = ", ".join([f"({', '.join('?' * len(step.columns))})"] * len(step.rows))
        values = [row.get(column.name) for row in step.rows for column in step.columns]
        cursor.execute(f"INSERT INTO {name} VALUES {places}", values)  # noqa: S608 (a name of ours, quoted)


def _empty(cursor: duckdb.DuckDBPyConnection, name: str, columns: Sequence[Column]) -> None:
    listed = ", ".join(f"{shapes.quoted(column.name)} {shapes.raw_type(column.type)}" for column in columns)
    cursor.execute(f"CREATE TEMP TABLE {shapes.quoted(name)} ({listed})")


def columns_of(cursor: duckdb.DuckDBPyConnection, relation: str) -> tuple[str, ...] | None:
    """The columns of a table, file or function; None if DuckDB does not know it."""
    try:
        return tuple(cursor.sql(f"SELECT * FROM {relation}").columns)  # noqa: S608 (it is a name from the user's tree)
    except duckdb.Error:
        return None
    finally:
        cursor.close()


def put(cursor: duckdb.DuckDBPyConnection, read: Read, table: Any) -> None:
    """Put what was fetched in the place of the empty table."""
    cursor.execute(f"DROP TABLE {shapes.quoted(_raw(read.relation))}")
    cursor.register(_raw(read.relation), table)


def materialize(cursor: duckdb.DuckDBPyConnection, material: Material) -> None:
    """Compute a subquery that gives parameters, once."""
    name = shapes.quoted(material.relation)
    cursor.execute(f"DROP VIEW {name}")
    cursor.execute(f"CREATE TEMP TABLE {name} AS {material.sql}")


def values(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return cursor.execute(sql).fetchall()


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


async def in_thread(
    cursor: duckdb.DuckDBPyConnection, plan: Plan, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run it off the loop; a caller that gives up interrupts DuckDB. DuckDB's errors become ours."""
    return await interruptible(cursor.interrupt, plan, function, *args, **kwargs)


async def interruptible(
    interrupt: Callable[[], None], plan: Plan, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    task = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():  # again and again: an interrupt before the thread has begun is lost
            interrupt()
            await asyncio.wait([task], timeout=0.05)
        with suppress(asyncio.CancelledError):
            task.exception()  # it is the interrupt, and known
        raise
    except duckdb.OutOfMemoryException as error:
        raise Exhausted(_readable(error, plan)) from None
    except duckdb.Error as error:
        raise Invalid(_readable(error, plan)) from None


def _readable(error: duckdb.Error, plan: Plan) -> str:
    """DuckDB's sentence, without the line of SQL that we wrote and with the names the user wrote."""
    text = str(error).partition("\n\nLINE ")[0].replace("sqlite_", "").replace("milepost_", "")
    for read in plan.reads:
        text = text.replace(read.relation, read.table.resource)
    return " ".join(text.split())
