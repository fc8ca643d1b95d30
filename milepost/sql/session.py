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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlglot import exp

from milepost.errors import Denied, Invalid, NotFound
from milepost.sql import execute, statements
from milepost.sql.catalog import Method, Table, shipped
from milepost.sql.execute import Rows
from milepost.sql.fetch import fetch, send
from milepost.sql.plan import Call, Plan, Read, plan
from milepost.sql.providers import Provider, openai_provider, table_of
from milepost.sql.show import describe, show
from milepost.sql.words import near

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from openai import AsyncOpenAI

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
        self._database: duckdb.DuckDBPyConnection | None = None

    async def execute(self, sql: str, params: Mapping[str, str] | None = None) -> Rows | Outcome:
        """Run one statement; `params` are the values of its `'{{ name }}'`."""
        statement = statements.parse(sql, params or {})
        if self._select_only and not isinstance(statement, statements.Query):
            raise Denied("Only SELECT is allowed here")
        match statement:
            case statements.Query():
                return await self._query(statement.tree)
            case statements.Show():
                return await self._query(show(statement, self._providers))
            case statements.Describe():
                return await self._query(describe(statement, self._providers))
            case statements.Exec():
                return await self._exec(statement)
            case statements.Change():
                raise self._refusal(statement)

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

    # --- queries ------------------------------------------------------------------------------------------------------

    async def _query(self, tree: exp.Query) -> Rows:
        made = plan(tree, self._find)
        if self._database is None:
            self._database = execute.connect(external_access=self._external_access)
        cursor = self._database.cursor()
        try:
            rows = await execute.bind(cursor, made)
            if made.reads:
                execute.fill(cursor, await self._fetch(made))
        except BaseException:
            cursor.close()
            raise
        return rows

    async def _fetch(self, made: Plan) -> dict[str, pa.Table]:
        """Relation → what its calls gave. A call that two relations share is sent once."""
        from milepost.sql import arrow  # half of the time that `SELECT 1` would take

        calls = [call for read in made.reads for call, _ in read.calls]
        for name in dict.fromkeys(call.provider for call in calls):
            self._on_use(self._providers[name])
        found = await fetch(calls, self._client)
        return {
            read.relation: arrow.table(
                read.columns,
                [_echoed(row, echo, read) for call, echo in read.calls for row in found[call]],
                read.table.name,
            )
            for read in made.reads
        }

    def _client(self, name: str) -> AsyncOpenAI:
        if name not in self._clients:
            self._clients[name] = self._providers[name].connect()
        return self._clients[name]

    def _find(self, node: exp.Table) -> tuple[str, Table] | None:
        if node.catalog in DUCKDB_CATALOGS:
            return None
        if node.catalog:
            return node.catalog, table_of(self._providers, node.catalog, node.db, node.name)
        if node.db in self._providers:
            raise NotFound(f"`{node.db}.{node.name}`: a table has three names, provider.service.resource")
        return None

    # --- what is not a query ------------------------------------------------------------------------------------------

    async def _exec(self, statement: statements.Exec) -> Outcome:
        provider, table = statement.table[0], table_of(self._providers, *statement.table)
        if not any(method.verb == "EXEC" for method in table.methods):
            raise _not_there("EXEC", table, statement.table)
        method = shipped().method(table, statement.method)
        _require_fit(statement, method)
        self._on_use(self._providers[provider])
        call = Call(provider, method, tuple(statement.arguments.items()), None)
        return Outcome(f"{method.http} {method.url}: done", await send(call, self._client(provider)))

    def _refusal(self, change: statements.Change) -> Invalid:
        for names in change.tables:
            table = table_of(self._providers, *names)
            if not any(method.verb == change.verb for method in table.methods):
                return _not_there(change.verb, table, names)
        return Invalid(f"{change.verb} comes later; today there are SELECT, SHOW, DESCRIBE and EXEC")


def _require_fit(statement: statements.Exec, method: Method) -> None:
    if method.verb != "EXEC":
        raise Invalid(f"`{method.name}` is reached by {method.verb}, not by EXEC")
    for name in statement.arguments:
        if not method.parameter(name):
            known = (parameter.name for parameter in method.parameters)
            raise NotFound(f"`{method.name}` has no parameter `{name}`.{near(name, known)}", param=name)
    if missing := [name for name in method.required if statement.arguments.get(name, "") == ""]:
        example = ", ".join(f"@{name} = '…'" for name in method.required)
        raise Invalid(
            f"`{method.name}` needs `{missing[0]}`.\nhint: EXEC {'.'.join(statement.table)}.{method.name} {example}",
            param=missing[0],
        )


def _not_there(verb: str, table: Table, names: tuple[str, str, str]) -> Invalid:
    """The refusal that names every way there is."""
    ways = [f"`{method.name}`, reached by {method.verb}" for method in table.methods]
    there = f"its one method is {ways[0]}" if len(ways) == 1 else f"its methods are {'; '.join(ways)}"
    return Invalid(f"`{'.'.join(names)}` has no method for {verb}; {there}")


def _echoed(row: dict[str, Any], echo: Mapping[str, Any], read: Read) -> dict[str, Any]:
    """The row with its hidden columns; the parameter that is the row's own id shows that id."""
    if not read.hidden:
        return row
    return {**row, read.table.own_id or "": row.get("id"), **echo}
