"""SQL over APIs: a statement in, rows or an outcome out.

::

    provider = openai_provider("openai", base_url="http://127.0.0.1:8000/v1", api_key=key)
    async with Session({"openai": provider}) as session:
        rows = await session.execute("SELECT id, status FROM openai.fine_tuning.jobs")
        print(rows.columns, await rows.fetchall())

A session belongs to one event loop. Cancelling a call (or `asyncio.timeout`) interrupts DuckDB too. It raises what
`milepost.errors` has: `Invalid` and `NotFound` for the statement, `Denied` for a missing key or a statement that is not
allowed, `Remote` for an API's error (status, code, request_id).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from milepost.errors import Denied, Invalid, NotFound
from milepost.sql import execute
from milepost.sql.calls import Call, Plan, Read
from milepost.sql.catalog import Table
from milepost.sql.execute import Rows
from milepost.sql.providers import Provider, openai_provider, table_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from openai import AsyncOpenAI
    from sqlglot import exp

__all__ = ["Outcome", "Provider", "Rows", "Session", "openai_provider"]

#: Names DuckDB keeps for itself.
DUCKDB_CATALOGS = frozenset({"main", "memory", "system", "temp"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did that is not a query: `value` is the API's answer."""

    message: str
    value: dict[str, Any]


class Session:
    """Providers, their clients and one DuckDB.

    `external_access=False` keeps SQL away from files and addresses: for statements that others wrote.
    `select_only=True` refuses everything but SELECT, before anything is sent.
    `on_use` is told of each provider a statement uses, before its first request.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        external_access: bool = True,
        select_only: bool = False,
        on_use: Callable[[Provider], None] = lambda _: None,
    ) -> None:
        if reserved := DUCKDB_CATALOGS & providers.keys():
            raise Invalid(f"`{min(reserved)}` cannot name a provider: DuckDB keeps that name for itself")
        self._providers = dict(providers)
        self._external_access = external_access
        self._select_only = select_only
        self._on_use = on_use
        self._clients: dict[str, AsyncOpenAI] = {}
        self._connecting = asyncio.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    async def execute(self, sql: str, params: Mapping[str, str] | None = None) -> Rows | Outcome:
        """Run one statement; `params` are the values of its `'{{ name }}'`."""
        if not params and execute.is_duckdbs_own(sql):
            return await self._run(Plan(sql, ()))
        return await self._execute_parsed(sql, params or {})

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
        if self._database:
            self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _execute_parsed(self, sql: str, params: Mapping[str, str]) -> Rows | Outcome:
        from milepost.sql import actions, statements  # with sqlglot, a third of the time that `SELECT 1` would take
        from milepost.sql.show import describe, show

        statement = statements.parse(sql, params)
        if self._select_only and not isinstance(statement, statements.Query):
            raise Denied("Only SELECT is allowed here")
        match statement:
            case statements.Query():
                return await self._run(self._plan(statement.tree))
            case statements.Show():
                return await self._run(show(statement, self._providers))
            case statements.Describe():
                return await self._run(describe(statement, self._providers))
            case statements.Exec():
                return await self._send(actions.call_of(statement, self._providers))
            case statements.Change():
                raise actions.refusal(statement, self._providers)

    def _plan(self, tree: exp.Query) -> Plan:
        from milepost.sql.plan import plan

        try:
            return plan(tree, self._find)
        except RecursionError:
            raise Invalid("The conditions are nested too deeply; many values are shorter with IN") from None

    async def _run(self, plan: Plan) -> Rows:
        if self._database is None:
            self._database = execute.connect(external_access=self._external_access)
        cursor = self._database.cursor()
        try:
            rows = await execute.bind(cursor, plan)
            if plan.reads:
                execute.fill(cursor, await self._fetch(plan))
        except BaseException:
            cursor.close()
            raise
        return rows

    async def _send(self, call: Call) -> Outcome:
        from milepost.sql.fetch import send

        answer = await send(call, await self._client(call.provider))
        return Outcome(f"{call.method.http} {call.method.url}: done", answer)

    async def _fetch(self, plan: Plan) -> dict[str, pa.Table]:
        """Relation → what its calls gave. A call that two relations share is sent once."""
        from milepost.sql import arrow
        from milepost.sql.fetch import fetch

        calls = [call for read in plan.reads for call, _ in read.calls]
        clients = {name: await self._client(name) for name in dict.fromkeys(call.provider for call in calls)}
        found = await fetch(calls, clients)
        return {
            read.relation: arrow.table(
                read.columns,
                [_echoed(row, echo, read) for call, echo in read.calls for row in found[call]],
                read.table.name,
            )
            for read in plan.reads
        }

    async def _client(self, name: str) -> AsyncOpenAI:
        self._on_use(self._providers[name])
        async with self._connecting:
            if name not in self._clients:  # in a thread: the import of an SDK takes a second
                self._clients[name] = await asyncio.to_thread(self._providers[name].connect)
        return self._clients[name]

    def _find(self, node: exp.Table) -> tuple[str, Table] | None:
        if node.catalog in DUCKDB_CATALOGS:
            return None
        if node.catalog:
            provider, service, resource = node.catalog.lower(), node.db.lower(), node.name.lower()
            return provider, table_of(self._providers, provider, service, resource)
        if node.db in self._providers:
            raise NotFound(f"`{node.db}.{node.name}`: a table has three names, provider.service.resource")
        return None


def _echoed(row: dict[str, Any], echo: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """The row with its hidden columns; the parameter that is the row's own id shows that id."""
    if not read.hidden:
        return row
    return {**row, read.table.own_id or "": row.get("id"), **echo}
