"""A plan in motion: each step runs as soon as what it needs is there, all calls of a step at once.

A query is first bound to empty relations, so that a misspelt column costs no request. Steps share one DuckDB cursor,
which does one thing at a time, in one transaction: so `now()` is one moment for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from milepost.sql import execute
from milepost.sql.calls import Call, Fixed, Given, Material, Plan, Read, Step, calls_now, calls_of
from milepost.sql.fetch import Fetcher, all_or_none
from milepost.sql.stream import Stream

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """One statement's cursor, plan and calls."""

    cursor: duckdb.DuckDBPyConnection
    plan: Plan
    fetcher: Fetcher
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def bind(self) -> execute.Bound:
        """The query over empty tables: raises `Invalid` for what DuckDB will not run, before anything is fetched."""
        return await self._in_turn(execute.bind, self.cursor, self.plan)

    async def gather(self) -> Stream | None:
        """Fill the relations. One long list that is read once is not gathered: it flows, and its stream is returned."""
        if read := _only_read(self.plan):
            calls = list(calls_of(read, ()))
            if len(calls) == 1:
                return await self._begin(read, *calls[0])
        done: dict[str, asyncio.Task[None]] = {}
        for step in self.plan.steps:
            done[step.relation] = asyncio.create_task(self._do(step, [done[need] for need in step.needs]))
        try:
            await all_or_none(done.values())
        finally:
            await self.fetcher.aclose()
        return None

    async def _do(self, step: Step, before: list[asyncio.Task[None]]) -> None:
        if before:
            await asyncio.gather(*map(asyncio.shield, before))
        if isinstance(step, Fixed):
            return
        if isinstance(step, Material):
            await self._in_turn(execute.materialize, self.cursor, step)
            return
        rows = [await self._in_turn(execute.values, self.cursor, values.sql) for values in step.values]
        table = await self._table(step, calls_now(step, rows))
        if table is not None:
            await self._in_turn(execute.put, self.cursor, step, table)

    async def _table(self, read: Read, calls: list[tuple[Call, Given]]) -> pa.Table | None:
        """The rows of the calls; None if there are none."""

        async def batches_of(call: Call, echo: Given) -> list[pa.RecordBatch]:
            return [batch async for batch in self._batches(read, call, echo)]

        tasks = [asyncio.create_task(batches_of(call, echo)) for call, echo in calls]
        found = [batch for batches in await all_or_none(tasks) for batch in batches]
        if not found:
            return None
        from milepost.sql import arrow

        return arrow.table(read.columns, found)

    async def _begin(self, read: Read, call: Call, echo: Given) -> Stream | None:
        """The list as a stream; as a table if its first page was its last, if there was one."""
        stream = Stream(read.columns, self._batches(read, call, echo))
        first = await stream.begin()
        if first is None:
            return stream
        if first:
            from milepost.sql import arrow

            await self._in_turn(execute.put, self.cursor, read, arrow.table(read.columns, first))
        return None

    async def _batches(self, read: Read, call: Call, echo: Mapping[str, Any]) -> AsyncIterator[pa.RecordBatch]:
        async for page in self.fetcher.pages(call, read.relation):
            from milepost.sql import arrow  # where there is no page, nothing needs it

            yield arrow.batch(read, page.rows, echo, page.request_id)

    async def _in_turn(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._turn:
            return await execute.in_thread(self.cursor, self.plan, function, *args, **kwargs)


def _only_read(plan: Plan) -> Read | None:
    """The plan's one table, if DuckDB reads it once, from the first row to the last."""
    one = plan.steps[0] if len(plan.steps) == 1 and plan.is_simple else None
    return one if isinstance(one, Read) and not one.values and one.method.page != "object" else None
