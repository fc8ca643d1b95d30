"""The `fine_tuning.job` and `fine_tuning.job.event` objects, and the status table."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from milepost.resources.base import Frozen
from milepost.resources.methods import Auto, BatchSize, Epochs, Method, Multiplier, SupervisedHyperparameters


class Status(StrEnum):
    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in NEXT


#: What a job may become next. A status that is not on the left is final.
NEXT: dict[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.QUEUED, Status.FAILED, Status.CANCELLED}),
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.PAUSED, Status.QUEUED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.FAILED, Status.CANCELLED}),
}


def sources(to: Status) -> tuple[Status, ...]:
    """The statuses from which a job may become `to`."""
    return tuple(status for status, targets in NEXT.items() if to in targets)


class JobError(Frozen):
    code: str
    message: str
    param: str | None = None


Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class JobRequest(Frozen):
    """The body of `POST /fine_tuning/jobs`. `method` wins over the deprecated top-level `hyperparameters`."""

    model: Annotated[str, Field(min_length=1)]
    training_file: Annotated[str, Field(min_length=1)]
    validation_file: str | None = None
    suffix: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1)] = None
    method: Method | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    integrations: tuple[dict[str, Any], ...] | None = None
    metadata: Metadata | None = None


class Hyperparameters(Frozen):
    """As the job shows them: numbers once resolved. Whole numbers stay whole (Go's SDK types them as ints).

    Whatever else was asked for rides along under its name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    n_epochs: Auto | Epochs = "auto"
    batch_size: Auto | BatchSize = "auto"
    learning_rate_multiplier: Auto | Multiplier = "auto"


class Job(Frozen):
    """A fine-tuning job. Every documented key is sent; `error` is null unless the job failed."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    model: str
    organization_id: str
    status: Status
    training_file: str
    validation_file: str | None
    fine_tuned_model: str | None = None
    finished_at: int | None = None
    trained_tokens: int | None = None
    error: JobError | None = None
    hyperparameters: Hyperparameters
    result_files: tuple[str, ...] = ()
    seed: int
    estimated_finish: int | None = None
    integrations: tuple[dict[str, Any], ...] | None = None
    method: dict[str, Any]
    metadata: Metadata | None = None
    user_provided_suffix: str | None = None
    usage_metrics: None = None
    shared_with_openai: Literal[False] = False


class Level(StrEnum):
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Event(Frozen):
    """One line of a job's history. `position` orders events and is the cursor; it is not sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]
