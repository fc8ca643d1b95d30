"""From requests to rows, and from rows to the API's objects."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Row

from milepost.resources.base import Frozen
from milepost.resources.checkpoints import FineTuningJobCheckpoint, FineTuningJobCheckpointObject, Metrics
from milepost.resources.forecasts import Forecast
from milepost.resources.jobs import (
    Event,
    Hyperparameters,
    Job,
    JobError,
    JobIntegration,
    JobProgress,
    JobRequest,
    Metadata,
    Status,
)
from milepost.resources.methods import MethodType
from milepost.resources.models import Base
from milepost.resources.runs import RunHyperparameters


class Plan(Frozen):
    """The JSON of a job's row: what was asked for, and the numbers it was resolved to."""

    method: MethodType
    hyperparameters: Hyperparameters
    run: RunHyperparameters
    integrations: tuple[JobIntegration, ...]
    metadata: Metadata | None
    #: the name of the tuned model or checkpoint that training goes on from: what `model` was, and what the job shows
    parent: str | None = None


def new_row(request: JobRequest, base: Base, plan: Plan) -> dict[str, object]:
    """What the row of a new job says of the job itself; whose it is, the ledger knows."""
    return {
        "status": Status.VALIDATING,
        "model": base.name,
        "base_hash": base.hash,
        "training_file": request.training_file,
        "validation_file": request.validation_file,
        "suffix": request.suffix,
        "seed": secrets.randbelow(2**31) if request.seed is None else request.seed,
        "result_files": [],
        "plan": plan.model_dump(mode="json"),
        "event_count": 0,
        "child_seq": 0,
        "attempt": 0,
    }


def to_job(row: Row[Any]) -> Job:
    plan = Plan.model_validate(row.plan)
    return Job(
        id=row.id,
        created_at=row.created_at,
        model=plan.parent or row.model,
        organization_id=row.organization_id,
        status=Status(row.status),
        training_file=row.training_file,
        validation_file=row.validation_file,
        fine_tuned_model=row.fine_tuned_model,
        finished_at=row.finished_at,
        trained_tokens=row.trained_tokens,
        error=None if row.error is None else JobError.model_validate(row.error),
        hyperparameters=plan.hyperparameters,
        result_files=tuple(row.result_files),
        seed=row.seed,
        estimated_finish=row.estimated_finish,
        integrations=plan.integrations,
        method={"type": plan.method.value, plan.method.value: {"hyperparameters": plan.hyperparameters.model_dump()}},
        metadata=plan.metadata,
        user_provided_suffix=row.suffix,
        forecast=None if row.forecast is None else Forecast.model_validate(row.forecast),
        progress=None if row.progress is None else JobProgress.model_validate(row.progress),
        is_paused=row.status == Status.PAUSED,
    )


def to_event(row: Row[Any]) -> Event:
    return Event(
        id=row.id, created_at=row.created_at, level=row.level, message=row.message, type=row.type, data=row.data
    )


def to_checkpoint(row: Row[Any]) -> FineTuningJobCheckpoint:
    return FineTuningJobCheckpoint(
        id=row.id,
        created_at=row.created_at,
        fine_tuned_model_checkpoint=row.name,
        step_number=row.step_number,
        metrics=Metrics.model_validate(row.metrics),
        fine_tuning_job_id=row.job_id,
        object=FineTuningJobCheckpointObject.FINE_TUNING_JOB_CHECKPOINT,
        ready_ms=row.ready_ms,
    )
