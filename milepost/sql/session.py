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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from milepost.errors import Denied, Invalid, NotFound, Remote
from milepost.sql import execute
from milepost.sql.calls import Call, Plan
from milepost.sql.catalog import Table
from milepost.sql.execute import Rows
from milepost.sql.providers import Client, Provider, openai_provider, table_of

if TYPE_CHECKING:
    import duckdb
    from sqlglot import exp

    from milepost.sql.fetch import Fetcher
    from milepost.sql.gate import Gate

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
    `on_use` is told of each provider a statement uses, before its first request; `on_wait` of each 429: the provider,
    the seconds that all of its requests are held back, and the id of the one that was refused.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        external_access: bool = True,
        select_only: bool = False,
        on_use: Callable[[Provider], None] = lambda _: None,
        on_wait: Callable[[Provider, float, str | None], None] = lambda _provider, _seconds, _request_id: None,
    ) -> None:
        if reserved := DUCKDB_CATALOGS & providers.keys():
            raise Invalid(f"`{min(reserved)}` cannot name a provider: DuckDB keeps that name for itself")
        self._providers = dict(providers)
        self._external_access = external_access
        self._select_only = select_only
        self._on_use = on_use
        self._on_wait = on_wait
        self._clients: dict[str, Client] = {}
        self._gates: dict[str, Gate] = {}
        self._connecting = asyncio.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None

    async def execute(self, sql: str, params: Mapping[str, str] | None = None) -> Rows | Outcome:
        """Run one statement; `params` are the values of its `'{{ name }}'`."""
        if not params and execute.is_duckdbs_own(sql):
            return await self._run(Plan(sql, ()))
        return await self._execute_parsed(sql, params or {})

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()
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
            return plan(tree, self._find, self._columns_of)
        except RecursionError:
            raise Invalid("The conditions are nested too deeply; many values are shorter with IN") from None

    async def _run(self, plan: Plan) -> Rows:
        cursor = self._cursor()
        errors: list[Remote] = []
        stream = None
        try:
            if plan.steps:
                from milepost.sql.run import Run

                run = Run(cursor, plan, await self._fetcher([read.provider for read in plan.reads], plan))
                errors = run.fetcher.errors
                bound = await run.bind()
                stream = await run.gather()
            else:
                bound = await execute.in_thread(cursor, plan, execute.bind, cursor, plan)
        except BaseException:
            cursor.close()
            raise
        return Rows(cursor, plan, bound, stream, errors)

    async def _send(self, call: Call) -> Outcome:
        fetcher = await self._fetcher([call.provider], None)
        answer = await fetcher.send(call)
        value = answer if isinstance(answer, dict) else {"result": answer}
        return Outcome(f"{call.method.http} {call.method.url}: done", value)

    async def _fetcher(self, providers: Iterable[str], plan: Plan | None) -> Fetcher:
        from milepost.sql.fetch import Fetcher, shared_by

        names = dict.fromkeys(providers)
        clients = {name: await self._client(name) for name in names}
        gates = {name: self._gates[name] for name in names}
        return Fetcher(clients, gates, shared_by(plan) if plan else frozenset())

    async def _client(self, name: str) -> Client:
        provider = self._providers[name]
        self._on_use(provider)
        async with self._connecting:
            if name not in self._clients:  # in a thread: the import of an SDK takes a second
                from milepost.sql.gate import Gate

                self._clients[name] = Client(await asyncio.to_thread(provider.connect))
                self._gates[name] = Gate(provider.at_once, partial(self._on_wait, provider))
        return self._clients[name]

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        if self._database is None:
            self._database = execute.connect(external_access=self._external_access)
        return self._database.cursor()

    def _columns_of(self, node: exp.Expr) -> tuple[str, ...] | None:
        """The columns of a table, file or function of DuckDB's."""
        alone = node.copy()
        alone.set("joins", None)
        return execute.columns_of(self._cursor(), alone.sql("duckdb"))

    def _find(self, node: exp.Table) -> tuple[str, Table] | None:
        if node.catalog in DUCKDB_CATALOGS:
            return None
        if node.catalog:
            provider, service, resource = node.catalog.lower(), node.db.lower(), node.name.lower()
            return provider, table_of(self._providers, provider, service, resource)
        if node.db in self._providers:
            raise NotFound(f"`{node.db}.{node.name}`: a table has three names, provider.service.resource")
        return None
