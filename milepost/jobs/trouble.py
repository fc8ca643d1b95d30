"""When a job cannot go on and its data are not to blame: its child is silent, the disk is full, memory has run out."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, update

from milepost.jobs import stories
from milepost.jobs.ledger import LET_GO, move
from milepost.jobs.records import find, tell
from milepost.jobs.rows import Plan
from milepost.resources.forecasts import Forecast
from milepost.resources.jobs import JobError, Status
from milepost.resources.runs import DISK_FULL, OUT_OF_MEMORY, Progress
from milepost.store.database import Database
from milepost.store.schema import events, jobs

log = logging.getLogger(__name__)

#: How often a job that ran out of room goes on by itself; after that it waits for its user.
MAX_WAITS = 20


@dataclass(slots=True)
class Pulse:
    """When a child last showed life, by a clock of ours that never jumps: the time it tells is only compared."""

    told: float | None = None
    heard_at: float | None = None

    def silent_s(self, progress: Progress | None, clock: float) -> float:
        heartbeat = None if progress is None else progress.heartbeat
        if self.heard_at is None or heartbeat != self.told:
            self.told, self.heard_at = heartbeat, clock
        return clock - self.heard_at


def await_room(database: Database, job_id: str, now: float, why: str, *, holder: str) -> None:
    """Pause a job that ran out of room, and let go of it; one whose user had paused it stays as it is. Raises
    `Conflict` if `holder` holds it no more.
    """
    mine = (events.c.job_id == job_id, events.c.message.contains(stories.WANT_OF_ROOM))
    with database.transaction() as connection:
        status = find(connection, job_id).status
        waits = connection.scalar(select(func.count()).select_from(events).where(*mine)) or 0
        if status == Status.VALIDATING and waits >= MAX_WAITS:
            error = JobError(code=DISK_FULL, message=why)
            move(
                connection,
                job_id,
                Status.FAILED,
                now,
                finished_at=int(now),
                values={**LET_GO, "error": error.model_dump()},
                holder=holder,
            )
            tell(connection, job_id, now, stories.failed(error))
        elif status == Status.RUNNING:
            move(connection, job_id, Status.PAUSED, now, values=LET_GO, holder=holder)
            tell(connection, job_id, now, stories.no_room(why, waits_by_itself=waits < MAX_WAITS))
        else:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(LET_GO))
            tell(connection, job_id, now, stories.nothing_saved(why))
    log.warning("job %s: %s", job_id, why)


def go_on(database: Database, now: float) -> None:
    """Put the jobs that waited for room back into the queue: those of which nothing was told since."""
    waiting = (
        select(jobs.c.id)
        .join(events, (events.c.job_id == jobs.c.id) & (events.c.position == jobs.c.event_count))
        .where(jobs.c.status == Status.PAUSED, events.c.message.endswith(stories.BY_ITSELF))
        .order_by(jobs.c.sequence)
    )
    with database.reading() as connection:
        if not connection.scalars(waiting).all():
            return
    with database.transaction() as connection:
        for job_id in connection.scalars(waiting).all():
            move(connection, job_id, Status.QUEUED, now, only_from=(Status.PAUSED,))
            tell(connection, job_id, now, stories.ROOM_AGAIN)
            log.info("job %s: there is room again", job_id)


def out_of_memory(database: Database, job_id: str, why: str) -> JobError:
    """What a job asked for, what was foreseen of it, and what would fit."""
    with database.reading() as connection:
        row = find(connection, job_id)
    run = Plan.model_validate(row.plan).run
    forecast = None if row.forecast is None else Forecast.model_validate(row.forecast)
    asked = f"It was asked to train with batch_size {run.batch_size} and max_length {run.max_length}"
    return JobError(code=OUT_OF_MEMORY, message=f"{why} {asked}{_advice(forecast, run.batch_size)}")


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory, in our control group or on the machine."""
    total = 0
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
        except OSError:
            continue
        total += int(found[1]) if found else 0
    return total


def _advice(forecast: Forecast | None, asked: int) -> str:
    if forecast is None or forecast.memory_bytes is None or forecast.memory_limit_bytes is None:
        return ". Create a new job with a smaller batch_size or max_length"
    foreseen = (
        f", for which {forecast.memory_bytes / 1e9:.1f} GB were foreseen; a training process may have "
        f"{forecast.memory_limit_bytes / 1e9:.1f} GB here"
    )
    largest = forecast.largest_batch_size
    if largest is None:
        return f"{foreseen}. Not even batch_size 1 is foreseen to fit: lower max_length, or tune a smaller base"
    if largest >= asked:
        return (
            f"{foreseen}. Up to batch_size {largest} was foreseen to fit: other processes may have had the memory. "
            "Create the job again when they have ended, or lower max_length"
        )
    return f"{foreseen}. The largest batch_size that is foreseen to fit is {largest}"
