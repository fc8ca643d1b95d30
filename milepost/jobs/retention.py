"""Which checkpoints of a job are kept, if it asked with `keep_checkpoints` that not all are.

One that is dropped is a deleted model: its name answers no more, and says when it went. Its bytes go later
(store/sweeping), when nobody can be reading them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, exists, select, update

from milepost.jobs.records import tell
from milepost.jobs.rows import Plan
from milepost.jobs.stories import Entry
from milepost.store.database import Database
from milepost.store.schema import checkpoints, jobs, permissions

_KEEPS_SOME = jobs.c.plan["run"]["keep_checkpoints"].as_integer().is_not(None)


def drop_older(connection: Connection, job: Row[Any], now: float) -> None:
    """Delete the checkpoints that the job does not keep, and tell of each.

    In the transaction that announces a checkpoint: nobody begins to use what is being dropped.
    """
    keep = Plan.model_validate(job.plan).run.keep_checkpoints
    if keep is None:
        return
    for row in _dropped(connection, job.id, keep):
        connection.execute(update(checkpoints).where(checkpoints.c.id == row.id).values(deleted_at=int(now)))
        message = (
            f"Checkpoint of step {row.step_number} is dropped, as keep_checkpoints is {keep}: `{row.name}` answers"
        )
        tell(connection, job.id, now, Entry(f"{message} no more", data={"step": row.step_number, "model": row.name}))


def dropped_steps(database: Database, job_id: str) -> tuple[int, ...]:
    """The steps whose checkpoints are deleted; none of a job that keeps all, where somebody has deleted a model."""
    query = (
        select(checkpoints.c.step_number)
        .join(jobs, jobs.c.id == checkpoints.c.job_id)
        .where(jobs.c.id == job_id, checkpoints.c.deleted_at.is_not(None), _KEEPS_SOME)
    )
    with database.reading() as connection:
        return tuple(connection.scalars(query.order_by(checkpoints.c.step_number)))


def _dropped(connection: Connection, job_id: str, keep: int) -> list[Any]:
    """Not the last `keep`, nor the best, the final one, one that a job goes on from or one that is shared."""
    is_used = exists().where(jobs.c.parent_checkpoint_id == checkpoints.c.id)
    is_shared = exists().where(permissions.c.checkpoint_id == checkpoints.c.id)
    there = select(*checkpoints.c, (is_used | is_shared | checkpoints.c.final).label("is_needed")).where(
        checkpoints.c.job_id == job_id, checkpoints.c.deleted_at.is_(None)
    )
    rows = connection.execute(there.order_by(checkpoints.c.step_number)).all()
    measured = [row for row in rows if row.metrics["full_valid_loss"] is not None]
    best = min(measured, key=lambda row: float(row.metrics["full_valid_loss"]), default=None)
    return [row for row in rows[:-keep] if not row.is_needed and row is not best]
