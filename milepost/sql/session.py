"""SQL over APIs: a statement in, rows or an outcome out.

::

    provider = openai_provider("openai", base_url="http://127.0.0.1:8000/v1", api_key=key)
    async with Session({"openai": provider}) as session:
        rows = await session.execute("SELECT id, status FROM openai.fine_tuning.jobs")
        print(rows.columns, await rows.fetchall())

A session belongs to one event loop. Cancelling a call (or `asyncio.timeout`) interrupts DuckDB and ends requests. It
raises what `milepost.errors` has: `Invalid` and `NotFound` for the statement, `Denied` for a missing key or a statement
that is not allowed, `Remote` for an API's error (status, code, request_id), `TimedOut` for an AWAIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

from milepost.errors import Invalid, NotFound
from milepost.sql import execute
from milepost.sql.calls import Calls, Plan
from milepost.sql.catalog import Table
from milepost.sql.execute import Bound, Rows
from milepost.sql.outcome import Outcome
from milepost.sql.providers import Client, Provider, named, openai_provider, table_of

if TYPE_CHECKING:
    import duckdb
    from sqlglot import exp

    from milepost.sql.dialect import Dialect
    from milepost.sql.fetch import Fetcher
    from milepost.sql.functions import Asking
    from milepost.sql.gate import Gate
    from milepost.sql.local import Views

__all__ = ["Outcome", "Provider", "Rows", "Session", "openai_provider"]

#: SDKs with OpenAI's chat completions.
SPEAK_CHAT = frozenset({"openai", "groq", "together"})
#: Names DuckDB keeps for itself.
DUCKDB_CATALOGS = frozenset({"main", "memory", "system", "temp"})


class Session:
    """Providers, their clients and one DuckDB.

    `external_access=False` keeps SQL away from files and addresses: for statements that others wrote.
    `select_only=True` refuses everything but SELECT, `read_only=True` what changes an API's resources, before anything
    is sent. `database` is a file for views and tables of one's own; without it they live as long as the session.
    `environ` is where ATTACH finds keys; without it nothing can be attached. `budget` is how often one statement may
    ask a model, by chat() and its like.

    `on_use` is told of each provider a statement uses, before its first request; `on_wait` of each 429: the provider,
    the seconds that all of its requests are held back, and the id of the one that was refused; `on_look` of each look
    of an AWAIT.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        *,
        external_access: bool = True,
        select_only: bool = False,
        read_only: bool = False,
        database: Path | None = None,
        environ: Mapping[str, str] | None = None,
        budget: int = 1000,
        on_use: Callable[[Provider], None] = lambda _: None,
        on_wait: Callable[[Provider, float, str | None], None] = lambda _provider, _seconds, _request_id: None,
        on_look: Callable[[str], None] = lambda _: None,
    ) -> None:
        if reserved := DUCKDB_CATALOGS & providers.keys():
            raise Invalid(f"`{min(reserved)}` cannot name a provider: DuckDB keeps that name for itself")
        self._providers = dict(providers)
        self.external_access = external_access
        self.select_only = select_only
        self.read_only = read_only
        self._path = database
        self.environ = environ
        self._on_use = on_use
        self._on_wait = on_wait
        self._links: dict[str, tuple[Client, Gate]] = {}
        self._connecting = asyncio.Lock()
        self._database: duckdb.DuckDBPyConnection | None = None
        self._kept_views: Views | None = None
        self._budget = budget
        self._running: dict[str, Asking] = {}
        self._unread: WeakSet[Rows] = WeakSet()
        self._functions: object = None
        self.on_look = on_look

    async def execute(
        self,
        sql: str,
        params: Mapping[str, str] | None = None,
        *,
        dialect: Dialect = "duckdb",
        all_rows: bool = False,
        dry_run: bool = False,
    ) -> Rows | Outcome:
        """Run one statement; `params` are the values of its `'{{ name }}'`.

        `dialect` says how it is read; DuckDB's is the default, with SQLite's ways of asking for JSON and times in it.
        UPDATE and DELETE of more rows than one need LIMIT or `all_rows`. With `dry_run`, what a change would send is
        the result, and nothing is changed.
        """
        _require_text(sql, *(params or {}).values())
        if not params and dialect == "duckdb" and execute.is_duckdbs_own(sql) and not self._has_views:
            return await self.run(Plan(sql, ()))
        from milepost.sql.handlers import Asked, handle  # with sqlglot, a third of the time that `SELECT 1` would take
        from milepost.sql.parse import parse

        return await handle(self, parse(sql, params or {}, dialect), Asked(all_rows, dry_run))

    @property
    def providers(self) -> Mapping[str, Provider]:
        return self._providers

    async def aclose(self) -> None:
        """End what is in flight, also for rows that nobody has read."""
        for rows in list(self._unread):
            await rows.aclose()
        for client, _ in self._links.values():
            await client.aclose()
        self._links.clear()
        if self._database:
            self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- what statements are made of ---

    def add(self, provider: Provider) -> None:
        """Know one more provider, until it is removed."""
        if provider.name in DUCKDB_CATALOGS:
            raise Invalid(f"`{provider.name}` cannot name a provider: DuckDB keeps that name for itself")
        if provider.name in self._providers:
            raise Invalid(f"There is a provider `{provider.name}` already.\nhint: DETACH {provider.name}")
        self._providers[provider.name] = provider

    async def remove(self, name: str) -> None:
        """Forget the provider of this name, and close its client."""
        named(self._providers, name)
        del self._providers[name]
        if link := self._links.pop(name, None):
            await link[0].aclose()

    def plan(self, tree: exp.Query, *, checked: bool = False) -> Plan:
        """The calls and DuckDB's text of a query, `checked` for an AWAIT; the tree is changed."""
        from milepost.sql.plan import plan

        try:
            return plan(self.views().expand(tree), self.find, self._columns_of, checked=checked)
        except RecursionError:
            raise Invalid("The conditions are nested too deeply; many values are shorter with IN") from None

    async def run(self, plan: Plan, *, go_on: bool = False) -> Rows:
        """Bind the plan, then fetch what it reads."""
        fetcher = stream = asking = None
        if plan.calls:
            asking = self._asking(plan.calls, go_on=go_on)
        cursor = self.cursor()
        try:
            if plan.steps:
                from milepost.sql.run import Run

                fetcher = self.fetcher(plan, go_on=go_on)
                run = Run(cursor, plan, fetcher)
                bound = await run.bind()
                stream = await run.gather()
            else:
                bound = await execute.in_thread(cursor, plan, execute.bind, cursor, plan)
        except BaseException:
            cursor.close()
            raise
        if asking:
            fetcher = fetcher or asking.fetcher
            asking.fetcher.errors = fetcher.errors
        rows = Rows(cursor, plan, bound, stream=stream, fetcher=fetcher, asking=asking)
        self._unread.add(rows)
        return rows

    def _asking(self, calls: Calls, *, go_on: bool) -> Asking:
        """What answers the functions of one statement."""
        from milepost.sql import functions

        name = calls.provider or ("openai" if "openai" in self._providers else next(iter(self._providers), ""))
        if named(self._providers, name).root not in SPEAK_CHAT:
            raise Invalid(f"chat() and graders speak OpenAI's API, and `{name}` does not")
        if self._functions is None:
            self._functions = functions.install(self._connected(), self._running)
        fetcher = self.fetcher(go_on=go_on)
        loop = asyncio.get_running_loop()
        asking = functions.Asking(name, fetcher, self._budget, loop, lambda: self._running.pop(calls.token, None))
        self._running[calls.token] = asking
        return asking

    async def bound(self, plan: Plan) -> Bound:
        """What DuckDB says of a query; nothing is fetched."""
        cursor = self.cursor()
        try:
            return await execute.in_thread(cursor, plan, execute.explain, cursor, plan)
        finally:
            cursor.close()

    def fetcher(self, plan: Plan | None = None, *, go_on: bool = False) -> Fetcher:
        """What sends one statement's calls."""
        from milepost.sql.fetch import Fetcher, shared_by

        return Fetcher(self._connect, shared_by(plan) if plan else frozenset(), go_on)

    async def _connect(self, name: str) -> tuple[Client, Gate]:
        """A provider's client and gate, which the statements of a session share."""
        provider = self._providers[name]
        self._on_use(provider)
        async with self._connecting:
            if name not in self._links:  # in a thread: the import of an SDK takes a second
                from milepost.sql.gate import Gate

                client = Client(await asyncio.to_thread(provider.connect))
                self._links[name] = client, Gate(provider.at_once, partial(self._on_wait, provider))
        return self._links[name]

    def views(self) -> Views:
        """The views of one's own."""
        from milepost.sql.local import Views

        if self._kept_views is None:
            self._kept_views = Views(self.cursor)
        return self._kept_views

    @property
    def _has_views(self) -> bool:
        """Whether a bare name may be a view's: only then must a statement without dots be read."""
        return self._path is not None or self._kept_views is not None

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self._connected().cursor()

    def _connected(self) -> duckdb.DuckDBPyConnection:
        if self._database is None:
            self._database = execute.connect(self._path, external_access=self.external_access)
        return self._database

    def _columns_of(self, node: exp.Expr) -> tuple[str, ...] | None:
        """The columns of a table, file or function of DuckDB's."""
        alone = node.copy()
        alone.set("joins", None)
        return execute.columns_of(self.cursor(), alone.sql("duckdb"))

    def find(self, node: exp.Table) -> tuple[str, Table] | None:
        if node.catalog in DUCKDB_CATALOGS:
            return None
        if node.catalog:
            provider, service, resource = node.catalog.lower(), node.db.lower(), node.name.lower()
            return provider, table_of(self._providers, provider, service, resource)
        if node.db in self._providers:
            raise NotFound(f"`{node.db}.{node.name}`: a table has three names, provider.service.resource")
        return None


def _require_text(*texts: str) -> None:
    """Bytes of a command line that are no UTF-8 come as halves of characters, which DuckDB and JSON cannot write."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise Invalid(f"Character {error.start + 1} of the statement or a value is no text: is it UTF-8?") from None
