"""What the ledger writes with: a job's row, its events, the outbox; each in a transaction of the caller's."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from milepost.errors import NotFound
from milepost.jobs import stories
from milepost.jobs.stories import Entry
from milepost.resources.base import new_id
from milepost.store import blobs
from milepost.store.blobs import Blob
from milepost.store.database import Database
from milepost.store.schema import events, jobs, outbox


def find(connection: Connection, job_id: str, *scope: ColumnElement[bool]) -> Row[Any]:
    if row := connection.execute(select(jobs).where(jobs.c.id == job_id, *scope)).one_or_none():
        return row
    raise NotFound(f"Could not find fine tune: {job_id}", param="fine_tune_id", code="fine_tune_not_found")


def tell(connection: Connection, job_id: str, now: float, *entries: Entry) -> None:
    """Append events. Their positions come from the job's row, whose lock keeps two tellers apart."""
    add = update(jobs).where(jobs.c.id == job_id).values(event_count=jobs.c.event_count + len(entries))
    last = connection.execute(add.returning(jobs.c.event_count)).scalar_one()
    for position, entry in enumerate(entries, start=last - len(entries) + 1):
        values = {
            "id": new_id("event"),
            "job_id": job_id,
            "position": position,
            "child_seq": entry.child_seq,
            "created_at": int(now) if entry.at is None else entry.at,
            "level": entry.level,
            "type": entry.type,
            "message": entry.message.replace("\0", "\ufffd"),  # which Postgres cannot keep; a line of data may have one
            "data": dict(entry.data),
        }
        connection.execute(insert(events).values(values))


def publish(
    connection: Connection, job: Row[Any], kind: str, now: float, facts: Mapping[str, object] | None = None
) -> None:
    """For who reads the outbox: what has become a fact of this job."""
    values = {
        "project_id": job.project_id,
        "created_at": int(now),
        "type": kind,
        "subject_id": job.id,
        "data": {**(facts or {})},
    }
    connection.execute(insert(outbox).values(values))


def keep_step_metrics(database: Database, job_id: str) -> Blob:
    """Keep the bytes of `step_metrics.csv`, made of the job's metrics events; the file is another's to make."""
    steps = select(events.c.data).where(events.c.job_id == job_id, events.c.type == "metrics")
    with database.reading() as connection:
        csv = stories.step_metrics(connection.scalars(steps.order_by(events.c.position)).all()).encode()
    return blobs.put(database.folder, io.BytesIO(csv), limit=len(csv))
