"""AWAIT: a query is asked again until its rows are final, or until there is one.

Where the tables have a `status`, every row that the query shows must be final; where none has, one row is enough, and a
fine-tuning job that ends without it ends the waiting too.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from sqlglot import exp

from milepost.errors import Conflict, TimedOut
from milepost.sql.calls import Plan
from milepost.sql.statements import Await

if TYPE_CHECKING:
    from milepost.sql.execute import Rows

#: What a status can be before it is final. Any other is final: new words must not make anyone wait for ever. A file
#: that is `uploaded` is not ready: the SDK's own `files.wait_for_processing` waits for it too.
# fmt: off
PENDING = frozenset({
    "cancelling", "finalizing", "in_progress", "paused", "pending", "queued", "running", "uploaded", "validating",
    "validating_files", "waiting",
})
# fmt: on
#: How long, and how often, where the statement does not say.
TIMEOUT_S, EVERY_S = 24 * 3600.0, 2.0

#: Told of each look: a line for a person.
OnLook = Callable[[str], None]


class Asks(Protocol):
    """What AWAIT needs of a session."""

    def plan(self, tree: exp.Query, *, checked: bool = False) -> Plan: ...
    async def run(self, plan: Plan, *, go_on: bool = False) -> Rows: ...


async def wait(session: Asks, tree: exp.Query, options: Await, on_look: OnLook, *, go_on: bool = False) -> Rows:
    """The rows of the first look that shows them final. Raises `TimedOut` with the state that was seen last."""
    started = time.monotonic()
    timeout_s = TIMEOUT_S if options.timeout_s is None else options.timeout_s
    every_s = EVERY_S if options.every_s is None else options.every_s
    has_ended = False
    while True:
        plan = session.plan(tree.copy(), checked=True)
        rows = await session.run(plan, go_on=go_on)
        seen = await _states(rows, plan)
        if _is_final(seen, plan):
            return rows
        await rows.aclose()
        waited_s = time.monotonic() - started
        state = _said(seen)
        on_look(f"AWAIT {waited_s:.0f} s: {state}")
        if has_ended:
            raise Conflict("The job has ended, and no row came that the statement waits for")
        has_ended = not plan.checks and await _has_ended(session, plan)
        if waited_s + every_s > timeout_s:
            raise TimedOut(f"Waited {waited_s:.0f} s, and it is not final: {state}")
        await asyncio.sleep(0 if has_ended else every_s)


async def _states(rows: Rows, plan: Plan) -> Counter[str]:
    """How many rows there are of each status; without any, how many rows there are."""
    seen: Counter[str] = Counter()
    for sql in plan.checks or (f"SELECT 'rows', count(*) FROM ({plan.sql})",):  # noqa: S608 (DuckDB's own text)
        for status, count in await rows.look(sql):
            seen[status or "none"] += count
    return seen


def _is_final(seen: Mapping[str, int], plan: Plan) -> bool:
    if not plan.checks:
        return seen["rows"] > 0
    return bool(seen) and not PENDING & seen.keys()


def _said(seen: Mapping[str, int]) -> str:
    return ", ".join(f"{status} {count}" for status, count in sorted(seen.items())) or "no rows"


async def _has_ended(session: Asks, plan: Plan) -> bool:
    """Whether every job that the query's tables are of is final."""
    jobs = {
        (read.provider, str(job)) for read in plan.reads for job in read.fixed.get("fine_tuning_job_id", frozenset())
    }
    if not jobs:
        return False
    for provider, job in jobs:
        table = exp.to_table(f"{provider}.fine_tuning.jobs", dialect="duckdb")
        query = exp.select("status").from_(table).where(exp.EQ(this=exp.column("id"), expression=exp.convert(job)))
        found = await (await session.run(session.plan(query))).fetchall()
        if any(status in PENDING for (status,) in found):
            return False
    return True
