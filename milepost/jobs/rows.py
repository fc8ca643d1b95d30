"""From rows to the API's objects."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from milepost.resources.base import Frozen
from milepost.resources.checkpoints import FineTuningJobCheckpoint, FineTuningJobCheckpointObject, Metrics
from milepost.resources.jobs import Event, Hyperparameters, Job, JobError, Metadata, Status
from milepost.resources.methods import MethodType
from milepost.resources.runs import RunHyperparameters


class Plan(Frozen):
    """The JSON of a job's row: what was asked for, and the numbers it was resolved to."""

    method: MethodType
    hyperparameters: Hyperparameters
    run: RunHyperparameters
    integrations: tuple[dict[str, Any], ...]
    metadata: Metadata | None


def to_job(row: Row[Any]) -> Job:
    plan = Plan.model_validate(row.plan)
    return Job(
        id=row.id,
        created_at=row.created_at,
        model=row.model,
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
    )
