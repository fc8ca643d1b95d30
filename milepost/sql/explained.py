"""EXPLAIN, carried out: nothing is sent, but by ANALYZE, which runs the query and says what that took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from milepost.errors import Denied
from milepost.sql import explain, parted, writes
from milepost.sql.calls import Plan
from milepost.sql.show import plan_of
from milepost.sql.statements import Explain, Query

if TYPE_CHECKING:
    from sqlglot import exp

    from milepost.sql.execute import Bound, Rows
    from milepost.sql.fetch import Fetcher
    from milepost.sql.providers import Provider


class Explains(Protocol):
    """What EXPLAIN needs of a session."""

    external_access: bool

    def plan(self, tree: exp.Query) -> Plan: ...
    async def run(self, plan: Plan, *, go_on: bool = False) -> Rows: ...
    async def bound(self, plan: Plan) -> Bound: ...
    def fetcher(self) -> Fetcher: ...


async def explained(session: Explains, statement: Explain, providers: Mapping[str, Provider]) -> Rows:
    inner = statement.statement
    if not isinstance(inner, Query):
        return await _explained_write(session, writes.target(inner, providers))
    plan = session.plan(inner.tree)
    if not statement.analyze:
        text = (await session.bound(plan)).plan
        return await session.run(plan_of(*explain.table(explain.lines(plan, {}), text, is_real=False)))
    rows = await session.run(plan, go_on=inner.go_on)
    started = time.monotonic()
    text = "\n".join(str(line[-1]) for line in await rows.into("EXPLAIN ANALYZE"))
    took = round(time.monotonic() - started, 3)
    lines = explain.lines(plan, rows.spent)
    return await session.run(plan_of(*explain.table(lines, text, is_real=True, seconds=took)))


async def _explained_write(session: Explains, target: writes.Target) -> Rows:
    plan = session.plan(target.query.copy())
    text = (await session.bound(plan)).plan
    lines = explain.lines(plan, {})
    requests = None
    if not plan.reads:
        found = await session.run(plan)
        made = writes.calls(target, found.columns, await found.fetchall(), files=session.external_access)
        calls = [one for call, _ in made for one in parted.requests(call)]
        try:
            requests = await session.fetcher().requests_of(calls)
        except Denied:  # no key: the shape of the request can be told without one
            requests = None
    lines += explain.write_line(len(lines) + 1, target, requests)
    return await session.run(plan_of(*explain.table(lines, text, is_real=False)))
