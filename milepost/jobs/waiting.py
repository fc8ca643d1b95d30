"""The queue as those see it who wait in it: how many go first, why, and when a job may start.

What is foreseen is what `leases.claim` would do if nothing were added: the same order, played through.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from sqlalchemy import Connection, func, select

from milepost.errors import Exhausted
from milepost.jobs import stories
from milepost.jobs.records import tell
from milepost.resources.jobs import WAITING, JobQueue, Status
from milepost.store.database import Database
from milepost.store.schema import jobs, projects, workers


def places(
    database: Database, wanted: Collection[str], now: float, *, most_of_project: int | None = None
) -> dict[str, JobQueue]:
    """Where these jobs stand in the queue; those of them that do not wait are left out."""
    if not wanted:
        return {}
    with database.reading() as connection:
        return _places(connection, set(wanted), now, most_of_project)


def announce(database: Database, job_id: str, now: float, *, most_of_project: int | None = None) -> None:
    """Tell a job that has come into the queue where it stands there, if it does not start at once."""
    with database.transaction() as connection:
        place = _places(connection, {job_id}, now, most_of_project).get(job_id)
        if place is not None and place.estimated_start != int(now):
            tell(connection, job_id, now, stories.waits(place))


def refuse_beyond(connection: Connection, project: str, most: int | None) -> None:
    """Refuse one more job of a project that has as many waiting as it may."""
    if most is None:
        return
    mine = select(func.count()).where(jobs.c.project_id == project, jobs.c.status.in_(WAITING))
    if (connection.scalar(mine) or 0) >= most:
        raise Exhausted(
            f"This fine-tune request has been rate-limited. Your project has reached the maximum of {most} "
            "fine-tuning jobs that wait. Send it again when one of them has started, or cancel one",
            code="rate_limit_exceeded",
        )


# ------------------------------------------------------------------------------------------------ private


@dataclass(slots=True)
class _Play:
    """What runs and waits, as it would go on from `now`. One that takes nobody knows how long ends at `inf`."""

    now: float
    free: int
    ends: list[tuple[float, str]]
    running: Counter[str]
    last_start: dict[str, float]
    queues: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))

    def next_project(self, most: int | None) -> str | None:
        """As `leases.claim` chooses."""
        may = [project for project in self.queues if most is None or self.running[project] < most]
        return min(
            may,
            default=None,
            key=lambda project: (
                self.running[project],
                self.last_start[project],
                self.queues[project][0].created_at,
                self.queues[project][0].sequence,
            ),
        )

    def start(self, project: str) -> Any:
        queue = self.queues[project]
        job = queue.popleft()
        if not queue:
            del self.queues[project]
        self.free -= 1
        self.running[project] += 1
        self.last_start[project] = self.now
        seconds = (job.forecast or {}).get("seconds")
        heapq.heappush(self.ends, (inf if seconds is None else self.now + seconds, project))
        return job

    def wait(self) -> None:
        """Until the next of what runs has ended."""
        end, project = heapq.heappop(self.ends)
        self.now = max(self.now, end)
        self.free += 1
        self.running[project] -= 1


def _places(connection: Connection, wanted: set[str], now: float, most: int | None) -> dict[str, JobQueue]:
    columns = (jobs.c.id, jobs.c.project_id, jobs.c.created_at, jobs.c.sequence, jobs.c.forecast)
    waiting = connection.execute(
        select(*columns).where(jobs.c.status == Status.QUEUED).order_by(jobs.c.created_at, jobs.c.sequence)
    ).all()
    if wanted.isdisjoint(row.id for row in waiting):
        return {}
    slots = connection.scalar(select(func.sum(workers.c.slots)).where(workers.c.seen_until >= now)) or 0
    runs = connection.execute(
        select(jobs.c.project_id, jobs.c.estimated_finish).where(jobs.c.status == Status.RUNNING)
    ).all()
    starts = connection.execute(select(projects.c.id, projects.c.last_start)).all()
    play = _Play(
        now=now,
        free=slots - len(runs),
        ends=[
            (inf if row.estimated_finish is None else max(now, row.estimated_finish), row.project_id) for row in runs
        ],
        running=Counter(row.project_id for row in runs),
        last_start=defaultdict(float, {row.id: row.last_start or 0.0 for row in starts}),
    )
    heapq.heapify(play.ends)
    for row in waiting:
        play.queues[row.project_id].append(row)
    reasons = _reasons(slots, runs, play.running, most)
    return _played(play, wanted, most, has_workers=slots > 0, reasons=reasons)


def _played(
    play: _Play, wanted: set[str], most: int | None, *, has_workers: bool, reasons: dict[str, str]
) -> dict[str, JobQueue]:
    found: dict[str, JobQueue] = {}
    position = 0
    while play.queues and len(found) < len(wanted):
        while (project := play.next_project(most)) is None or (has_workers and play.free <= 0):
            play.wait()
        job = play.start(project)
        position += 1
        if job.id in wanted:
            start = int(play.now) if has_workers and isfinite(play.now) else None
            reason = reasons.get(project, reasons[""])
            found[job.id] = JobQueue(position=position, reason=reason, estimated_start=start)
    return found


def _reasons(slots: int, runs: Sequence[Any], running: Counter[str], most: int | None) -> dict[str, str]:
    """Why a project's jobs wait; under the empty name, why any does."""
    if not slots:
        return {"": "No worker is there: start `milepost worker`, or `milepost serve` without --no-worker"}
    reasons = {"": f"{len(runs)} of at most {slots} jobs run on this server"}
    if most is not None:
        full = [project for project, count in running.items() if count >= most]
        reasons.update(dict.fromkeys(full, f"Of this project {most} run, which is as many as may at once"))
    return reasons
