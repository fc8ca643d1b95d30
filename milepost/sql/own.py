"""Statements about views and tables of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sqlglot import exp

from milepost.errors import Invalid
from milepost.sql import dialect, execute, shapes
from milepost.sql.calls import Plan
from milepost.sql.local import MATERIALIZED, PLAIN, Views, target_of, text_of
from milepost.sql.outcome import Outcome
from milepost.sql.show import plan_of
from milepost.sql.statements import Create, DescribeLocal, Local, Refresh, ShowLocal
from milepost.sql.words import matches

if TYPE_CHECKING:
    import duckdb

    from milepost.sql.catalog import Table
    from milepost.sql.execute import Bound, Rows

#: Rows on their way into a table of one's own.
ARRIVING = "_arriving"


class Holds(Protocol):
    """What these statements need of a session."""

    def plan(self, tree: exp.Query) -> Plan: ...
    def find(self, node: exp.Table) -> tuple[str, Table] | None: ...
    def cursor(self) -> duckdb.DuckDBPyConnection: ...
    async def run(self, plan: Plan) -> Rows: ...
    async def bound(self, plan: Plan) -> Bound: ...


async def own(
    session: Holds, statement: ShowLocal | DescribeLocal | Create | Refresh | Local, views: Views
) -> Rows | Outcome:
    match statement:
        case ShowLocal():
            return await session.run(await _shown(session, statement, views))
        case DescribeLocal():
            bound = await session.bound(session.plan(exp.select("*").from_(exp.to_table(statement.name, quoted=True))))
            rows = [(name, str(kind)) for name, kind in zip(bound.columns, bound.types, strict=True)]
            return await session.run(plan_of(("name", "type"), rows))
        case Create():
            return await _create(session, statement, views)
        case Refresh():
            text = views.text(statement.view, MATERIALIZED)
            await _fill(session, statement.view, text, "OR REPLACE ")
            return Outcome(f"REFRESH MATERIALIZED VIEW {statement.view}: done", {})
        case Local():
            return await _change(session, statement, views)


async def _shown(session: Holds, statement: ShowLocal, views: Views) -> Plan:
    if statement.what == "VIEWS":
        rows: list[tuple[str, ...]] = [
            (name, kind, views.text(name, kind)) for kind in (PLAIN, MATERIALIZED) for name in views.names(kind)
        ]
        columns: tuple[str, ...] = ("name", "kind", "sql")
    else:
        found = await session.run(
            Plan("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' ORDER BY ALL", ())
        )
        rows, columns = [(name,) for (name,) in await found.fetchall()], ("name",)
    is_like = matches(statement.like or "%")
    return plan_of(columns, [row for row in rows if is_like(row[0])])


async def _create(session: Holds, statement: Create, views: Views) -> Outcome:
    name, columns = target_of(statement.tree)
    text = text_of(statement.tree, columns)
    is_replaced = bool(statement.tree.args.get("replace"))
    if views.kind(name) and not is_replaced:
        raise Invalid(f"There is a view `{name}` already.\nhint: CREATE OR REPLACE {statement.kind} {name} AS …")
    if statement.kind == "VIEW":
        for table in statement.tree.expression.find_all(exp.Table):
            session.find(table)
        views.keep(name, PLAIN, text)
        return Outcome(f"CREATE VIEW {name}: done", {})
    await _fill(session, name, text, "OR REPLACE " if is_replaced else "")
    if statement.kind == "MATERIALIZED VIEW":
        views.keep(name, MATERIALIZED, text)
    else:
        views.forget(name)
    return Outcome(f"CREATE {statement.kind} {name}: done", {})


async def _fill(session: Holds, name: str, text: str, replace: str) -> None:
    query = dialect.parse(text)
    if not isinstance(query, exp.Query):
        raise Invalid(f"`{name}` is not made of a query")
    rows = await session.run(session.plan(query))
    await rows.into(f"CREATE {replace}TABLE {shapes.quoted(name)} AS")


async def _change(session: Holds, statement: Local, views: Views) -> Outcome:
    tree, verb = statement.tree, type(statement.tree).__name__.upper()
    if statement.query is not None and isinstance(tree, exp.Insert):
        rows = await session.run(session.plan(statement.query.copy()))
        tree.set("expression", exp.select("*").from_(ARRIVING))
        await rows.into(f"CREATE TEMP TABLE {ARRIVING} AS", dialect.generate(tree))
        return Outcome(f"{verb}: done", {})
    if any(session.find(table) for table in tree.find_all(exp.Table)):
        raise Invalid(f"{verb} of your own table cannot read an API's.\nhint: CREATE TABLE … AS SELECT … first")
    if isinstance(tree, exp.Drop):
        return await _drop(session, tree, views)
    return await _execute(session, dialect.generate(tree), verb)


async def _drop(session: Holds, tree: exp.Drop, views: Views) -> Outcome:
    made = Outcome("DROP: done", {})
    for table in tree.args["tables"]:
        kind = views.kind(table.name)
        if kind != PLAIN:
            exists = "IF EXISTS " if tree.args.get("exists") else ""
            what = "TABLE" if kind == MATERIALIZED else tree.kind
            made = await _execute(session, f"DROP {what} {exists}{shapes.quoted(table.name)}", "DROP")
        views.forget(table.name)
    return made


async def _execute(session: Holds, sql: str, verb: str) -> Outcome:
    """Run a statement of DuckDB's own; what it returns are its values."""
    cursor = session.cursor()
    try:
        names, rows = await execute.in_thread(cursor, Plan(sql, ()), execute.change, cursor, sql)
    finally:
        cursor.close()
    values = tuple(dict(zip(names, row, strict=True)) for row in rows) if verb != "DROP" else ()
    return Outcome(f"{verb}: done", values[-1] if values else {}, values)
