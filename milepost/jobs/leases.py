"""Who works on which job: claims, and the leases that keep them.

A claim lasts until `lease_until` unless its worker renews it, which it does some times before. A worker that is not
heard of any more loses its jobs to the others; whatever it does later with one of them finds that it is not its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, case, extract, func, insert, literal, or_, select, update

from milepost.errors import Unavailable
from milepost.jobs import stories
from milepost.jobs.ledger import LET_GO, move
from milepost.jobs.records import tell
from milepost.resources.jobs import NEXT, WAITING, JobProgress, Status
from milepost.store.database import Database
from milepost.store.schema import jobs, projects, workers

#: How long a claim lasts without a heartbeat before another worker may take the job.
LEASE_S = 60.0


def elapsed_s() -> float:
    """Seconds by a clock that no time of day moves, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker holds. `status` is what it was found in: validating, running, or ended by someone else."""

    job_id: str
    status: Status


class SharedClock:
    """The time by the database's clock, which all its workers share: their own may differ, and jump.

    It is asked now and then; between, a clock goes on from it that does not jump.
    """

    def __init__(self, database: Database, every_s: float, clock: Callable[[], float] = elapsed_s) -> None:
        self._database = database
        self._every_s = every_s
        self._clock = clock
        self._ahead_s: float | None = None
        self._ask_at = 0.0

    def __call__(self) -> float:
        if self._ahead_s is None or self._clock() >= self._ask_at:
            self._ahead_s = self._asked_s()
            self._ask_at = self._clock() + self._every_s
        return self._clock() + self._ahead_s

    def _asked_s(self) -> float:
        try:
            with self._database.reading() as connection:
                found = connection.scalar(select(extract("epoch", func.clock_timestamp())))
        except Unavailable:
            if self._ahead_s is None:
                raise
            return self._ahead_s
        return float(found or 0) - self._clock()


def claim(
    database: Database,
    owner: str,
    status: Status,
    now: float,
    *,
    lease_s: float = LEASE_S,
    most_of_project: int | None = None,
) -> Claim | None:
    """Take the job whose turn it is of those that wait in this status; one that was queued is running from here on.

    Of a project no more than `most_of_project` run.
    """
    is_lost = and_(jobs.c.lease_until < now, jobs.c.lease_owner != owner)  # what it holds itself it does not take twice
    waits = (jobs.c.status == status, or_(jobs.c.lease_owner.is_(None), is_lost))
    with database.reading() as connection:
        if connection.scalar(select(jobs.c.id).where(*waits).limit(1)) is None:  # mostly; a reader keeps nobody waiting
            return None
    # Claims take turns, or two would count the same running jobs; a row that its former worker is writing to is passed
    # over, not waited for.
    first = _in_turn(*waits, most_of_project=most_of_project).limit(1).with_for_update(of=jobs, skip_locked=True)
    with database.transaction() as connection:
        if (row := connection.execute(first).one_or_none()) is None:
            return None
        held = {"lease_owner": owner, "lease_until": now + lease_s}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(held))
        if status is not Status.QUEUED:
            return Claim(row.id, status)
        move(connection, row.id, Status.RUNNING, now, values={"attempt": row.attempt + 1})
        connection.execute(update(projects).where(projects.c.id == row.project_id).values(last_start=now))
        tell(connection, row.id, now, stories.RESUMED if row.attempt else stories.STARTED)
        return Claim(row.id, Status.RUNNING)


def held(database: Database, owner: str) -> tuple[Claim, ...]:
    """The jobs that a worker of this name held when it ended, whatever has become of them since."""
    query = select(jobs.c.id, jobs.c.status).where(jobs.c.lease_owner == owner).order_by(jobs.c.sequence)
    with database.reading() as connection:
        return tuple(Claim(row.id, Status(row.status)) for row in connection.execute(query))


def queue_lost(database: Database, owner: str, now: float) -> int:
    """Put the running jobs of other workers that are not heard of any more back in the queue; returns how many.

    Whoever claims one finds its child, if that lives on, by the lock of the run directory.
    """
    lost = _lost(owner, now).where(jobs.c.status == Status.RUNNING)
    with database.reading() as connection:
        if connection.execute(lost.limit(1)).one_or_none() is None:
            return 0
    with database.transaction() as connection:
        rows = connection.execute(lost.with_for_update(skip_locked=True)).all()
        for row in rows:
            move(connection, row.id, Status.QUEUED, now, only_from=(Status.RUNNING,), values=LET_GO)
            tell(connection, row.id, now, stories.lost(row.lease_owner))
    return len(rows)


def take_over(database: Database, owner: str, now: float, *, lease_s: float) -> Claim | None:
    """Take a job that was paused or ended by someone, and whose worker is not heard of any more: its child has yet to
    leave.
    """
    lost = _lost(owner, now).where(jobs.c.status.not_in((*WAITING, Status.RUNNING))).limit(1)
    with database.reading() as connection:
        if connection.execute(lost).one_or_none() is None:
            return None
    with database.row_transaction() as connection:
        if (row := connection.execute(lost.with_for_update(skip_locked=True)).one_or_none()) is None:
            return None
        held = {"lease_owner": owner, "lease_until": now + lease_s}
        connection.execute(update(jobs).where(jobs.c.id == row.id).values(held))
        return Claim(row.id, Status(row.status))


def status_of(database: Database, job_id: str, owner: str) -> Status | None:
    """The status of a job that this worker holds; None if another holds it by now."""
    query = select(jobs.c.status).where(jobs.c.id == job_id, jobs.c.lease_owner == owner)
    with database.reading() as connection:
        found = connection.scalar(query)
    return None if found is None else Status(found)


def heartbeat(  # noqa: PLR0917 (in the order of the ledger's)
    database: Database,
    job_id: str,
    owner: str,
    now: float,
    estimated_finish: int | None,
    progress: JobProgress | None = None,
    *,
    lease_s: float = LEASE_S,
) -> bool:
    """Keep the lease, also of a job that was paused and whose child is leaving; False if it is another's by now.

    The rest is told while it runs.
    """
    mine = update(jobs).where(jobs.c.id == job_id, jobs.c.lease_owner == owner, jobs.c.status.in_(list(NEXT)))
    shown = None if progress is None else progress.model_dump(mode="json")
    told = {jobs.c.estimated_finish: estimated_finish, jobs.c.progress: shown}
    while_running = {
        column: case((jobs.c.status == Status.RUNNING, literal(value, column.type)), else_=None)
        for column, value in told.items()
    }
    with database.row_transaction() as connection:
        return bool(connection.execute(mine.values({jobs.c.lease_until: now + lease_s, **while_running})).rowcount)


def show_up(database: Database, owner: str, slots: int, now: float, until: float) -> None:
    """Tell that this worker is there, and how many jobs it trains at once; others that are not are forgotten."""
    told = {"slots": slots, "seen_until": until}
    with database.transaction() as connection:
        connection.execute(workers.delete().where(workers.c.seen_until < now, workers.c.name != owner))
        if not connection.execute(update(workers).where(workers.c.name == owner).values(told)).rowcount:
            connection.execute(insert(workers).values(name=owner, **told))


def leave(database: Database, owner: str) -> None:
    """Tell that this worker takes no more jobs."""
    with database.transaction() as connection:
        connection.execute(workers.delete().where(workers.c.name == owner))


# ------------------------------------------------------------------------------------------------ private


def _lost(owner: str, now: float) -> Select[tuple[str, str, str]]:
    """Jobs of other workers that are not heard of any more."""
    query = select(jobs.c.id, jobs.c.status, jobs.c.lease_owner)
    return query.where(jobs.c.lease_until < now, jobs.c.lease_owner != owner).order_by(jobs.c.sequence)


def _in_turn(*waits: ColumnElement[bool], most_of_project: int | None) -> Select[tuple[str, str, int]]:
    """Jobs that wait, in the order of their turns: first the project of which the fewest run, of those the one that
    started a job the longest ago; within a project the oldest job.
    """
    others = jobs.alias()
    running = (
        select(func.count())
        .where(others.c.project_id == jobs.c.project_id, others.c.status == Status.RUNNING)
        .scalar_subquery()
    )
    query = (
        select(jobs.c.id, jobs.c.project_id, jobs.c.attempt)
        .join(projects, projects.c.id == jobs.c.project_id)
        .where(*waits)
        .order_by(running, func.coalesce(projects.c.last_start, 0), jobs.c.created_at, jobs.c.sequence)
    )
    return query if most_of_project is None else query.where(running < most_of_project)
