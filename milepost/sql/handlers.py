"""Which part of this package carries out which statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from milepost.errors import Denied
from milepost.sql import statements as kinds
from milepost.sql.change import change
from milepost.sql.explained import explained
from milepost.sql.outcome import Outcome
from milepost.sql.own import own
from milepost.sql.show import show
from milepost.sql.wait import wait
from milepost.sql.writes import target

if TYPE_CHECKING:
    from milepost.sql.execute import Rows
    from milepost.sql.session import Session


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller asks beside the statement."""

    all_rows: bool
    dry_run: bool


async def handle(session: Session, statement: kinds.Statement, asked: Asked) -> Rows | Outcome:
    """Carry the statement out. Raises `Denied` for one that the session does not allow, before anything is sent."""
    if session.select_only and not isinstance(statement, kinds.Query):
        raise Denied("Only SELECT is allowed here")
    return await HANDLERS[type(statement)](session, statement, asked)


async def _query(session: Session, statement: kinds.Query, asked: Asked) -> Rows | Outcome:
    if asked.dry_run:
        return await explained(session, kinds.Explain(statement, analyze=False), session.providers)
    if statement.wait:
        return await wait(session, statement.tree, statement.wait, session.on_look, go_on=statement.go_on)
    return await session.run(session.plan(statement.tree), go_on=statement.go_on)


async def _show(
    session: Session, statement: kinds.Show | kinds.ShowInsert | kinds.Describe, _asked: Asked
) -> Rows | Outcome:
    return await session.run(show(statement, session.providers))


async def _write(session: Session, statement: kinds.Write, asked: Asked) -> Rows | Outcome:
    reads = isinstance(statement, kinds.Exec) and target(statement, session.providers).method.http == "GET"
    if session.read_only and not asked.dry_run and not reads:
        raise Denied(f"{statement.verb} of `{'.'.join(statement.table)}` is refused: this is read-only")
    return await change(
        session,
        statement,
        session.providers,
        all_rows=asked.all_rows,
        dry_run=asked.dry_run,
        files=session.external_access,
        on_look=session.on_look,
    )


async def _explain(session: Session, statement: kinds.Explain, _asked: Asked) -> Rows | Outcome:
    return await explained(session, statement, session.providers)


async def _own(session: Session, statement: Any, _asked: Asked) -> Rows | Outcome:
    return await own(session, statement, session.views())


async def _attach(session: Session, statement: kinds.Attach, _asked: Asked) -> Rows | Outcome:
    from milepost.sql.attach import attached

    session.add(attached(statement, session.environ))
    return Outcome(f"ATTACH {statement.name}: {statement.url}", {})


async def _detach(session: Session, statement: kinds.Detach, _asked: Asked) -> Rows | Outcome:
    await session.remove(statement.name)
    return Outcome(f"DETACH {statement.name}: done", {})


HANDLERS: dict[type, Callable[[Session, Any, Asked], Awaitable[Rows | Outcome]]] = {
    kinds.Query: _query,
    kinds.Show: _show,
    kinds.ShowInsert: _show,
    kinds.Describe: _show,
    kinds.Insert: _write,
    kinds.Change: _write,
    kinds.Exec: _write,
    kinds.Explain: _explain,
    kinds.ShowLocal: _own,
    kinds.DescribeLocal: _own,
    kinds.Create: _own,
    kinds.Refresh: _own,
    kinds.Local: _own,
    kinds.Attach: _attach,
    kinds.Detach: _detach,
}
