"""How jobs are getting on, in numbers, for whoever watches over the server: of all projects together."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import func, select

from milepost.resources.jobs import Status
from milepost.store.database import Database
from milepost.store.schema import jobs, outbox

#: What the outbox calls the two ends of a wait.
_QUEUED, _RUNNING = f"fine_tuning.job.{Status.QUEUED}", f"fine_tuning.job.{Status.RUNNING}"


def by_status(database: Database) -> dict[Status, int]:
    """How many jobs there are in each status; none is 0."""
    query = select(jobs.c.status, func.count()).group_by(jobs.c.status)
    with database.reading() as connection:
        found = {Status(status): count for status, count in connection.execute(query)}
    return {status: found.get(status, 0) for status in Status}


def training_tokens_per_s(database: Database) -> float:
    """What all running jobs together trained a second when they were last heard of."""
    query = select(jobs.c.progress).where(jobs.c.status == Status.RUNNING, jobs.c.progress.is_not(None))
    with database.reading() as connection:
        return sum(progress.get("tokens_per_s") or 0.0 for progress in connection.scalars(query))


@dataclass(slots=True)
class Waits:
    """How long jobs waited in the queue, read off the outbox from where it ended when this was made.

    So it hears of every job, whichever process took it. Times there are whole seconds.
    """

    _read_to: int
    _queued_at: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_now_on(cls, database: Database) -> Waits:
        queued = select(jobs.c.id).where(jobs.c.status == Status.QUEUED)
        since = (
            select(outbox.c.subject_id, func.max(outbox.c.created_at))
            .where(outbox.c.type == _QUEUED, outbox.c.subject_id.in_(queued))
            .group_by(outbox.c.subject_id)
        )
        with database.reading() as connection:
            last = connection.scalar(select(func.max(outbox.c.sequence))) or 0
            return cls(last, {row.subject_id: row[1] for row in connection.execute(since)})

    def ended(self, database: Database) -> list[int]:
        """Seconds of each wait that has ended in a start since this was last asked."""
        new = select(outbox).where(outbox.c.sequence > self._read_to).order_by(outbox.c.sequence)
        waits = []
        with database.reading() as connection:
            for row in connection.execute(new):
                self._read_to = row.sequence
                if row.type == _QUEUED:
                    self._queued_at[row.subject_id] = row.created_at
                elif (since := self._queued_at.pop(row.subject_id, None)) is not None and row.type == _RUNNING:
                    waits.append(row.created_at - since)
        return waits
