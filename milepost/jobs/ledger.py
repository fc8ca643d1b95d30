"""The ledger of jobs: each public function is one transaction, and only `move` writes a status.

A change of state, the events that tell of it and the row of the outbox that others read are written together: after a
crash there is all of a change, or nothing of it. Functions that take a `project` are for the doors, and other projects'
jobs do not exist for them; those that take none are for the worker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, exists, insert, select, update

from milepost.errors import Conflict, Corrupt, Invalid
from milepost.jobs import inputs, retention, stories, waiting
from milepost.jobs.hyperparameters import asked, resolve
from milepost.jobs.records import find, keep_step_metrics, publish, tell
from milepost.jobs.rows import Plan, new_row, to_checkpoint, to_event, to_job
from milepost.jobs.stories import Entry
from milepost.resources.base import Page, new_id
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.files import Purpose
from milepost.resources.forecasts import Actual, Forecast
from milepost.resources.jobs import Event, Job, JobError, JobRequest, Status, sources
from milepost.resources.methods import TRAINED, Method
from milepost.resources.models import Base
from milepost.resources.runs import METRICS, CheckpointMetrics, Result, RunEvent
from milepost.store import blobs, files, idempotency
from milepost.store.database import Database
from milepost.store.idempotency import Once
from milepost.store.keys import Key
from milepost.store.models import Tuned
from milepost.store.pages import read_page
from milepost.store.schema import checkpoints, events, job_metadata, jobs, organizations

log = logging.getLogger(__name__)

#: What the row of a job says that no worker holds.
LET_GO = {"lease_owner": None, "lease_until": None}
#: What is told of a job only while it runs.
NOT_RUNNING: Mapping[str, None] = {"estimated_finish": None, "progress": None}


# ------------------------------------------------------------------------------------------------ for the doors


def create(
    database: Database,
    key: Key,
    request: JobRequest,
    base: Base,
    now: float,
    *,
    parent: Tuned | None = None,
    once: Once | None = None,
    most_waiting: int | None = None,
) -> Job:
    """Create a job in `validating_files`, its numbers resolved and its first events told.

    `base` is what `request.model` was found to stand for, `parent` the tuned checkpoint of it that training goes on
    from. Whether the files' lines are good is the validation's to say. A request that was sent `once` before gives the
    job that it made then. A project may have `most_waiting` jobs that have not started yet.
    """
    if (method := request.method or Method()).type not in TRAINED:
        raise Invalid(
            f"The method `{method.type}` is not trained here yet. Methods: {', '.join(sorted(TRAINED))}", param="method"
        )
    inputs.refuse_unfit(request)
    job_id = new_id("job")
    with database.transaction() as connection:
        if once and (job := _made_before(connection, key.project_id, once)):
            return job
        waiting.refuse_beyond(connection, key.project_id, most_waiting)
        examples = inputs.examples(connection, key.project_id, request, now)
        if parent is not None:
            inputs.check_parent(connection, parent, base)
        has_validation = request.validation_file is not None
        resolved = resolve(asked(request), examples, base, has_validation=has_validation, parent=parent)
        plan = Plan(
            method=method.type,
            hyperparameters=resolved.shown,
            run=resolved.run,
            integrations=stories.integrations(job_id, request),
            metadata=request.metadata,
            parent=parent and parent.name,
        )
        values = {
            **new_row(request, base, plan),
            "id": job_id,
            "project_id": key.project_id,
            "organization_id": key.organization_id,
            "created_at": int(now),
            "parent_checkpoint_id": parent and parent.id,
        }
        row = connection.execute(insert(jobs).values(values).returning(jobs)).one()
        for name, value in (request.metadata or {}).items():
            connection.execute(insert(job_metadata).values(job_id=job_id, key=name, value=value))
        tell(connection, job_id, now, *stories.created(job_id, request, base, resolved, parent))
        publish(connection, row, "fine_tuning.job.created", now)
        if once:
            idempotency.remember(connection, key.project_id, once.key, once.request_sha256, {"id": job_id}, now)
    return to_job(row)


def made_before(database: Database, project: str, once: Once) -> Job | None:
    """The job that a request sent before has made, as it is now."""
    with database.reading() as connection:
        return _made_before(connection, project, once)


def get(database: Database, project: str, job_id: str) -> Job:
    with database.reading() as connection:
        return to_job(find(connection, job_id, jobs.c.project_id == project))


def page(
    database: Database,
    project: str,
    *,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | None = None,
    without_metadata: bool = False,
) -> Page[Job]:
    """List jobs, newest first: those with every pair of `metadata`, or, `without_metadata`, those that have none."""
    tags = job_metadata.c
    filters: list[ColumnElement[bool]] = [
        exists().where(tags.job_id == jobs.c.id, tags.key == name, tags.value == value)
        for name, value in (metadata or {}).items()
    ]
    if without_metadata:
        filters.append(~exists().where(tags.job_id == jobs.c.id))
    with database.reading() as connection:
        return read_page(
            connection,
            jobs,
            to_job,
            scope=jobs.c.project_id == project,
            filters=filters,
            keys=(jobs.c.created_at, jobs.c.sequence),
            after=after,
            limit=limit,
        )


def events_page(database: Database, project: str, job_id: str, *, after: str | None, limit: int) -> Page[Event]:
    """List a job's events, newest first."""
    with database.reading() as connection:
        find(connection, job_id, jobs.c.project_id == project)
        return read_page(
            connection,
            events,
            to_event,
            scope=events.c.job_id == job_id,
            keys=(events.c.position,),
            after=after,
            limit=limit,
        )


def checkpoints_page(
    database: Database, project: str, job_id: str, *, after: str | None, limit: int
) -> Page[FineTuningJobCheckpoint]:
    """List a job's checkpoints, highest step first."""
    with database.reading() as connection:
        find(connection, job_id, jobs.c.project_id == project)
        return read_page(
            connection,
            checkpoints,
            to_checkpoint,
            scope=checkpoints.c.job_id == job_id,
            keys=(checkpoints.c.step_number,),
            after=after,
            limit=limit,
        )


def cancel(database: Database, project: str, job_id: str, now: float) -> Job:
    """Cancel at once; its worker ends the child when it sees it. What checkpoints there are go on answering."""
    with database.transaction() as connection:
        find(connection, job_id, jobs.c.project_id == project)
        row = move(connection, job_id, Status.CANCELLED, now, finished_at=int(now), asked="cancelled")
        tell(connection, job_id, now, stories.CANCELLED)
    if row.lease_owner is None:
        _sweep_data(database, row)
    return to_job(row)


def pause(database: Database, project: str, job_id: str, now: float) -> Job:
    """Pause at once. A child that trains writes a checkpoint and ends; its worker lets go of the job only then."""
    with database.transaction() as connection:
        found = find(connection, job_id, jobs.c.project_id == project)
        row = move(connection, job_id, Status.PAUSED, now, asked="paused")
        tell(connection, job_id, now, stories.PAUSED_RUNNING if found.status == Status.RUNNING else stories.PAUSED)
    return to_job(row)


def resume(database: Database, project: str, job_id: str, now: float) -> Job:
    """Back to the queue, whatever its former child still does: the lease keeps a second one off until it has left."""
    with database.transaction() as connection:
        find(connection, job_id, jobs.c.project_id == project)
        row = move(connection, job_id, Status.QUEUED, now, only_from=(Status.PAUSED,), asked="resumed")
        tell(connection, job_id, now, stories.UNPAUSED)
    return to_job(row)


# ------------------------------------------------------------------------------------------------ the one place


def move(
    connection: Connection,
    job_id: str,
    to: Status,
    now: float,
    *,
    only_from: Sequence[Status] | None = None,
    finished_at: int | None = None,
    values: Mapping[str, object] | None = None,
    asked: str | None = None,
    holder: str | None = None,
) -> Row[Any]:
    """Move a job along NEXT in one UPDATE, so that of two callers only one wins; the other gets a `Conflict`.

    `only_from` are those of its statuses on the way that are meant, if not all are. `values` are columns that become
    true in the same instant. `asked` is what a client asked to have done, for the sentence that says it cannot be. A
    worker that was not heard of for too long is the `holder` no more.
    """
    found = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_(set(sources(to)) & set(only_from or Status)), *_held_by(holder))
        .values({**(values or {}), "status": to, "finished_at": finished_at, **NOT_RUNNING})
        .returning(jobs)
    )
    if (row := connection.execute(found).one_or_none()) is None:
        status = Status(find(connection, job_id).status)
        wish = f"be {asked}; {stories.INSTEAD[status]}" if asked else f"become {to}"
        raise Conflict(f"Job `{job_id}` is {status} and cannot {wish}", param="status")
    publish(connection, row, f"fine_tuning.job.{to}", now)
    return row


# ------------------------------------------------------------------------------------------------ for the worker


def add_events(database: Database, job_id: str, told: Sequence[RunEvent]) -> None:
    """Store what a child has told; what is stored already, by its `child_seq`, is left as it is."""
    with database.row_transaction() as connection:
        last = connection.scalar(select(jobs.c.child_seq).where(jobs.c.id == job_id).with_for_update()) or 0
        if new := [event for event in told if event.child_seq > last]:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(child_seq=new[-1].child_seq))
            tell(connection, job_id, 0, *(stories.from_child(event) for event in new))


def add_notices(database: Database, job_id: str, told: Sequence[RunEvent]) -> None:
    """Store what a child has said beside its events, each number once, whatever came before it."""
    said = select(events.c.child_seq).where(events.c.job_id == job_id, events.c.child_seq.is_not(None))
    with database.row_transaction() as connection:
        connection.execute(select(jobs.c.id).where(jobs.c.id == job_id).with_for_update())
        known = set(connection.scalars(said.where(events.c.child_seq.in_({event.child_seq for event in told}))))
        new = {event.child_seq: event for event in told[::-1] if event.child_seq not in known}
        tell(connection, job_id, 0, *(stories.from_child(event) for event in reversed(new.values())))


def count_start(database: Database, job_id: str, now: float, why: str, *, holder: str | None = None) -> None:
    """Note that the child is started again, and tell why."""
    with database.transaction() as connection:
        _require_held(connection, job_id, holder)
        # a validation that begins anew and a pause that is finished are no attempts at training
        training = update(jobs).where(jobs.c.id == job_id, jobs.c.status == Status.RUNNING)
        connection.execute(training.values(attempt=jobs.c.attempt + 1))
        is_paused = find(connection, job_id).status == Status.PAUSED
        tell(connection, job_id, now, stories.restarted_to_pause(why) if is_paused else stories.restarted(why))


def announce_checkpoint(database: Database, job_id: str, folder: Path, now: float) -> FineTuningJobCheckpoint:
    """Make a checkpoint of a run's checkpoint folder: its weights are kept first, then it has a name and answers.

    The name is drawn once per (job, step): announcing again gives the checkpoint there is.
    """
    measured = CheckpointMetrics.model_validate_json((folder / METRICS).read_bytes())
    known = select(checkpoints).where(checkpoints.c.job_id == job_id, checkpoints.c.step_number == measured.step)
    with database.reading() as connection:
        if (row := connection.execute(known).one_or_none()) is not None:
            return to_checkpoint(row)
    adapter = blobs.publish_adapter(database.folder, folder)
    with database.transaction() as connection:
        if not blobs.adapter_folder(database.folder, adapter).exists():  # swept meanwhile, as another job's of old
            blobs.publish_adapter(database.folder, folder)
        job = find(connection, job_id)
        organization = connection.scalar(select(organizations.c.name).where(organizations.c.id == job.organization_id))
        name = stories.checkpoint_name(
            job.model, str(organization), job.suffix, None if measured.final else measured.step
        )
        values = {
            "id": new_id("checkpoint"),
            "job_id": job_id,
            "project_id": job.project_id,
            "created_at": int(now),
            "step_number": measured.step,
            "final": measured.final,
            "name": name,
            "adapter_sha256": adapter,
            "metrics": measured.metrics.model_dump(mode="json"),
        }
        row = connection.execute(insert(checkpoints).values(values).returning(checkpoints)).one()
        if not measured.final:  # the last one is told of as the new model, when the job has succeeded
            tell(connection, job_id, now, stories.checkpoint_created(measured.step, name))
        publish(connection, job, "fine_tuning.job.checkpoint.created", now, {"checkpoint_id": row.id})
        retention.drop_older(connection, job, now)
    log.info("job %s: checkpoint %s", job_id, name)
    return to_checkpoint(row)


def queue(
    database: Database,
    job_id: str,
    now: float,
    why: Entry,
    forecast: Forecast | None = None,
    *,
    holder: str | None = None,
) -> None:
    """To the queue: its files are good, or the server stops and the job goes on later. `why` is the event.

    A job that was paused in this moment stays so: only who paused it resumes it.
    """
    values: dict[str, object] = {**LET_GO}
    if forecast is not None:
        values["forecast"] = forecast.model_dump(mode="json")
    with database.transaction() as connection:
        only_from = (Status.VALIDATING, Status.RUNNING)
        move(connection, job_id, Status.QUEUED, now, only_from=only_from, values=values, holder=holder)
        tell(connection, job_id, now, why)


def succeed(
    database: Database,
    job_id: str,
    result: Result,
    now: float,
    actual: Actual | None = None,
    *,
    holder: str | None = None,
) -> None:
    """Finish a job whose last checkpoint has been announced: its model's name, result file and closing events.

    `actual` is what it did cost, to stand beside what was foreseen.
    """
    metrics = keep_step_metrics(database, job_id)
    last = select(checkpoints.c.name).where(checkpoints.c.job_id == job_id, checkpoints.c.final)
    with database.transaction() as connection:
        if (model := connection.scalar(last)) is None:
            raise Corrupt(f"The run of job `{job_id}` says it succeeded, but has published no last checkpoint")
        file = files.insert_file(
            connection,
            database.folder,
            find(connection, job_id).project_id,
            filename="step_metrics.csv",
            purpose=Purpose.FINE_TUNE_RESULTS,
            blob=metrics,
            lines=None,
            now=now,
        )
        values = {
            "fine_tuned_model": model,
            "trained_tokens": result.trained_tokens,
            "result_files": [file.id],
            **LET_GO,
        }
        forecast = connection.scalar(select(jobs.c.forecast).where(jobs.c.id == job_id))
        if forecast is not None and actual is not None:
            values["forecast"] = {**forecast, "actual": actual.model_dump(mode="json")}
        row = move(connection, job_id, Status.SUCCEEDED, now, finished_at=int(now), values=values, holder=holder)
        tell(connection, job_id, now, *stories.succeeded(model))
    _sweep_data(database, row)


def fail(database: Database, job_id: str, error: JobError, now: float, *, holder: str | None = None) -> None:
    values = {"error": error.model_dump(), **LET_GO}
    with database.transaction() as connection:
        row = move(connection, job_id, Status.FAILED, now, finished_at=int(now), values=values, holder=holder)
        tell(connection, job_id, now, stories.failed(error))
    _sweep_data(database, row)


def release(database: Database, job_id: str, *, holder: str | None = None) -> None:
    """Let go of a job that someone else has ended or paused, once its child has ended too; of another's, nothing."""
    let_go = update(jobs).where(jobs.c.id == job_id, *_held_by(holder)).values(LET_GO).returning(jobs)
    with database.transaction() as connection:
        row = connection.execute(let_go).one_or_none()
    if row is not None:
        _sweep_data(database, row)


# ------------------------------------------------------------------------------------------------ private


def _held_by(holder: str | None) -> Sequence[ColumnElement[bool]]:
    """A condition for who holds the job; none for doors, and for tests that hold nothing."""
    return () if holder is None else (jobs.c.lease_owner == holder,)


def _require_held(connection: Connection, job_id: str, holder: str | None) -> None:
    if connection.scalar(select(jobs.c.id).where(jobs.c.id == job_id, *_held_by(holder))) is None:
        raise Conflict(f"Job `{job_id}` is another worker's by now", param="status")


def _made_before(connection: Connection, project: str, once: Once) -> Job | None:
    answer = idempotency.recall(connection, project, once.key, once.request_sha256)
    return None if answer is None else to_job(find(connection, answer["id"]))


def _sweep_data(database: Database, job: Row[Any]) -> None:
    """Deleted files whose bytes only this job still needed."""
    files.sweep(database, *(name for name in (job.training_file, job.validation_file) if name))
