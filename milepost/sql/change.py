"""A change, carried out: its rows are found, its calls shown or sent; RETURNING sees what they answered.

A call that changes something is sent once. After the first that fails no other begins; those in flight are waited for,
since nobody could tell afterwards whether they were carried out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from sqlglot import exp

from milepost.errors import Conflict, Invalid, Remote
from milepost.sql import dialect, parted, shapes, writes
from milepost.sql.calls import Call, Fixed, Plan
from milepost.sql.catalog import Column, Method, Type
from milepost.sql.outcome import Outcome
from milepost.sql.statements import Exec, Insert
from milepost.sql.wait import PENDING, OnLook, wait

if TYPE_CHECKING:
    from milepost.sql.execute import Rows
    from milepost.sql.fetch import Fetcher
    from milepost.sql.providers import Provider
    from milepost.sql.statements import Write

RELATION = "_returned"

#: Methods whose answer is the last word on a row that nothing reads again. What goes on is its `file`.
LAST_WORDS = frozenset({"uploads.cancel", "uploads.complete", parted.PATH})


#: The calls, each with the row that it changes; and what they answered.
Made: TypeAlias = Sequence[tuple[Call, dict[str, Any]]]
Answers: TypeAlias = list[dict[str, Any]]
#: Gives the rows of a query when they are final.
Waits: TypeAlias = "Callable[[exp.Select], Awaitable[Rows]]"


class Runs(Protocol):
    """What a change needs of a session."""

    def plan(self, tree: exp.Query, *, checked: bool = False) -> Plan: ...
    async def run(self, plan: Plan, *, go_on: bool = False) -> Rows: ...
    def fetcher(self) -> Fetcher: ...


async def change(
    session: Runs,
    statement: Write,
    providers: Mapping[str, Provider],
    *,
    all_rows: bool,
    dry_run: bool,
    files: bool,
    on_look: OnLook,
) -> Rows | Outcome:
    """Carry it out. More rows than one need a LIMIT in the statement, or `all_rows`; `dry_run` sends no change."""
    target = writes.target(statement, providers)
    if isinstance(statement, Insert | Exec) and statement.wait:
        _require_states(target)
    found = await session.run(session.plan(target.query.copy()))
    made = writes.calls(target, found.columns, await found.fetchall(), files=files)
    is_bound = all_rows or not target.keeps_rows or bool(target.query.args.get("limit"))
    if len(made) > 1 and not is_bound:
        raise Invalid(
            f"{target.verb} would change {len(made)} rows of `{target.shown}`.\nhint: add LIMIT {len(made)}, or --all"
        )
    if dry_run:
        return await _preview(session, [call for call, _ in made])
    answers, errors = await _send_all(session, target, made, on_look, go_on=statement.go_on)
    if isinstance(statement, Insert | Exec) and statement.wait and answers:
        until_final = partial(wait, session, options=statement.wait, on_look=on_look)
        if target.method.path in LAST_WORDS:
            answers = await _finish_files(target, answers, until_final)
        else:
            answers = await _finish(target, made, answers, until_final)
    if statement.returning:
        rows = await _returned(session, target, statement.returning, answers)
        rows.errors += errors
        return rows
    host = providers[target.provider].host
    count = f"{len(answers)} row{'' if len(answers) == 1 else 's'}"
    message = f"{target.verb} {count}: {target.method.http} {target.method.url} at {host}"
    return Outcome(message, answers[-1] if answers else {}, tuple(answers), tuple(errors))


def _require_states(target: writes.Target) -> None:
    """Nothing is sent that could not be waited for; of a new upload, for one, no call of the API says how it is."""
    if target.method.path in LAST_WORDS:
        return
    if not target.table.selects:
        ways = "; ".join(_waiting(target, method) for method in target.table.methods if method.path in LAST_WORDS)
        hint = f"\nhint: what can be waited for is {ways}" if ways else ". Send it without AWAIT"
        raise Invalid(
            f"Nothing can AWAIT `{target.method.name}` of `{target.shown}`: no call reads what it makes{hint}"
        )
    if not target.table.column("status"):
        raise Invalid(f"`{target.shown}` has no status to wait for. Send it without AWAIT")


def _waiting(target: writes.Target, method: Method) -> str:
    if method.verb == "INSERT":
        return f"INSERT /*+ AWAIT */ INTO {target.shown} ({', '.join(method.required)}) …"
    return f"EXEC /*+ AWAIT */ {target.shown}.{method.name} …"


async def _finish(target: writes.Target, made: Made, answers: Answers, until_final: Waits) -> Answers:
    """The answers, once the rows that they made are final. They are found by their id and the values of the path."""
    query = _by_id(target.shown, [answer.get("id") for answer in answers])
    for parameter in target.method.parameters:
        if parameter.place == "path" and any(method.parameter(parameter.name) for method in target.table.selects):
            values = {value for call, _ in made for name, value in call.arguments if name == parameter.name}
            held = exp.In(this=exp.column(parameter.name), expressions=[exp.convert(value) for value in sorted(values)])
            query = query.where(held)
    final = {row["id"]: row for row in await (await until_final(query)).dicts()}
    return [answer | final.get(answer.get("id"), {}) for answer in answers]


async def _finish_files(target: writes.Target, answers: Answers, until_final: Waits) -> Answers:
    """The answers, once the files in them are final. Raises `Conflict` for an answer that is not final itself."""
    for answer in answers:
        if (status := answer.get("status")) in PENDING:
            raise Conflict(f"`{answer.get('id')}` is {status}, and the API has no call that reads it again")
    files = [answer.get("file") or {} for answer in answers]
    ids = [file["id"] for file in files if file.get("status") in PENDING]
    if not ids:
        return answers
    found = await until_final(_by_id(f"{target.provider}.files.files", ids))
    final = {row["id"]: row for row in await found.dicts()}
    return [
        {**answer, "file": final.get(file.get("id"), answer.get("file"))}
        for answer, file in zip(answers, files, strict=True)
    ]


def _by_id(table: str, ids: Sequence[object]) -> exp.Select:
    held = exp.In(this=exp.column("id"), expressions=[exp.convert(one) for one in ids])
    return exp.select("*").from_(exp.to_table(table, dialect="duckdb")).where(held)


async def _send_all(
    session: Runs, target: writes.Target, made: Made, on_look: OnLook, *, go_on: bool
) -> tuple[Answers, list[Remote]]:
    """The answers in the order of the rows, each with the row it changed. New rows are made one after another."""
    if not made:
        return [], []
    fetcher = session.fetcher()
    one_by_one = asyncio.Semaphore(1 if target.verb == "INSERT" else 8)
    failed: list[Remote] = []

    async def send(call: Call, row: Mapping[str, Any]) -> dict[str, Any] | None:
        async with one_by_one:
            if failed and not go_on:
                return None
            try:
                answer = await parted.send(fetcher, call, on_look)
            except Remote as error:
                failed.append(error)
                return None
        return {**row, **(answer if isinstance(answer, dict) else {"result": answer})}

    tasks = [asyncio.create_task(send(call, row)) for call, row in made]
    try:
        answers = [answer for answer in await asyncio.gather(*tasks) if answer is not None]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failed and not go_on:
        raise _with_count(failed[0], target, len(answers), len(made))
    return answers, failed


def _with_count(error: Remote, target: writes.Target, done: int, wanted: int) -> Remote:
    said = f"; {target.verb} of {done} of {wanted} rows was carried out" if wanted > 1 else ""
    return error.with_more(said)


async def _returned(
    session: Runs, target: writes.Target, returning: exp.Select, answers: Sequence[dict[str, Any]]
) -> Rows:
    from milepost.sql import arrow

    known = {column.name: column for column in target.table.columns}
    more = {name: None for answer in answers for name in answer if name not in known}
    inferred = [Column(name, arrow.type_of([answer.get(name) for answer in answers]), "") for name in more]
    columns = (*(known.values() if target.method.page or not answers else ()), *inferred)
    if not columns:
        columns = (Column("result", "any", ""),)
    tree = returning.copy().from_(
        exp.Table(
            this=exp.to_identifier(RELATION), alias=exp.TableAlias(this=exp.to_identifier(target.table.resource))
        ),
        copy=False,
    )
    types = {column.name: column.type for column in columns}
    dialect.rewrite(tree, lambda node: _type_in(types, node))
    return await session.run(Plan(dialect.generate(tree), (Fixed(RELATION, columns, answers),)))


def _type_in(types: Mapping[str, Type], node: exp.Expr) -> Type | None:
    return types.get(node.name.lower()) if isinstance(node, exp.Column) else None


async def _preview(session: Runs, calls: Sequence[Call]) -> Rows:
    """The exact requests, as rows; none is sent."""
    requests = await session.fetcher().requests_of(one for call in calls for one in parted.requests(call))
    columns = tuple(Column(name, "string", "") for name in ("method", "url", "body"))
    rows = [dict(zip(("method", "url", "body"), request, strict=True)) for request in requests]
    sql = f"SELECT * FROM {shapes.quoted(RELATION)}"  # noqa: S608 (a name of ours)
    return await session.run(Plan(sql, (Fixed(RELATION, columns, rows),)))
