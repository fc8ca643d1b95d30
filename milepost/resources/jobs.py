"""The `fine_tuning.job` and `fine_tuning.job.event` objects, and the status table."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from milepost.resources.base import Frozen
from milepost.resources.methods import Auto, BatchSize, Epochs, Method, Multiplier, SupervisedHyperparameters


class Status(StrEnum):
    """Where a job stands. `succeeded`, `failed` and `cancelled` are final."""

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
    """Why a job failed."""

    code: Annotated[str, Field(description="A word for programs, such as `invalid_training_file`.")]
    message: Annotated[str, Field(description="What was wrong, with every bad line, and what to do.")]
    param: Annotated[
        str | None, Field(description="The parameter at fault, such as `training_file`; null if none is.")
    ] = None


Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class JobRequest(Frozen):
    """The body of `POST /fine_tuning/jobs`. `method` wins over the deprecated top-level `hyperparameters`."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "smollm2-135m-instruct",
                "training_file": "file-3KrCqTHvXEFUcHLfCSuZ7Ftd",
                "suffix": "demo",
                "seed": 42,
                "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
            }
        }
    )

    model: Annotated[str, Field(min_length=1, description="What to train: a base model or an alias of one.")]
    training_file: Annotated[str, Field(min_length=1, description="A file uploaded with purpose `fine-tune`.")]
    validation_file: Annotated[
        str | None, Field(description="A file of the same form, which is measured with and not learnt from.")
    ] = None
    suffix: Annotated[
        str | None, Field(min_length=1, max_length=64, description="A word for the tuned model's name.")
    ] = None
    seed: Annotated[
        int | None, Field(ge=0, le=2**31 - 1, description="Of the order of the data and all draws; null draws one.")
    ] = None
    method: Annotated[Method | None, Field(description="How to train; null is supervised, all of it `auto`.")] = None
    hyperparameters: Annotated[
        SupervisedHyperparameters | None, Field(description="Deprecated: `method` has them and wins.")
    ] = None
    integrations: Annotated[
        tuple[dict[str, Any], ...] | None, Field(description="Kept and shown; nothing is sent anywhere.")
    ] = None
    metadata: Annotated[
        Metadata | None, Field(description="Up to 16 pairs of texts of your own; jobs are found by them.")
    ] = None


class Hyperparameters(Frozen):
    """As the job shows them: numbers once resolved. Whole numbers stay whole (Go's SDK types them as ints)."""

    n_epochs: Annotated[Auto | Epochs, Field(description="How often the training file is gone through.")] = "auto"
    batch_size: Annotated[Auto | BatchSize, Field(description="Examples per optimizer step.")] = "auto"
    learning_rate_multiplier: Annotated[
        Auto | Multiplier, Field(description="What the base learning rate was multiplied with.")
    ] = "auto"


class Job(Frozen):
    """A fine-tuning job. Every documented key is sent; `error` is null unless the job failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB",
                "object": "fine_tuning.job",
                "created_at": 1_790_000_000,
                "model": "smollm2-135m-instruct",
                "organization_id": "org-3bMiwc9Nq8FkXVdSlOyqWZBr",
                "status": "succeeded",
                "training_file": "file-3KrCqTHvXEFUcHLfCSuZ7Ftd",
                "validation_file": None,
                "fine_tuned_model": "ft:smollm2-135m-instruct:personal:demo:9uJPbR69",
                "finished_at": 1_790_000_500,
                "trained_tokens": 5070,
                "error": None,
                "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0},
                "result_files": ["file-7qkDxXmPzWb2nUVyLJ0ohRcT"],
                "seed": 42,
                "estimated_finish": None,
                "integrations": None,
                "method": {
                    "type": "supervised",
                    "supervised": {
                        "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0}
                    },
                },
                "metadata": {"team": "support"},
                "user_provided_suffix": "demo",
                "usage_metrics": None,
                "shared_with_openai": False,
            }
        }
    )

    id: Annotated[str, Field(description="Identifier of the job, `ftjob-…`.")]
    object: Annotated[Literal["fine_tuning.job"], Field(description="The object type, always `fine_tuning.job`.")] = (
        "fine_tuning.job"
    )
    created_at: Annotated[int, Field(description="When the job was created, in Unix seconds.")]
    model: Annotated[str, Field(description="The base model that is trained, whatever alias the request had.")]
    organization_id: Annotated[str, Field(description="The organisation that owns the job, `org-…`.")]
    status: Annotated[Status, Field(description="Where the job stands.")]
    training_file: Annotated[str, Field(description="The id of the training file.")]
    validation_file: Annotated[str | None, Field(description="The id of the validation file; null if there is none.")]
    fine_tuned_model: Annotated[
        str | None, Field(description="The tuned model's name; null until the job has succeeded.")
    ] = None
    finished_at: Annotated[int | None, Field(description="When the job ended, in Unix seconds; null until then.")] = (
        None
    )
    trained_tokens: Annotated[
        int | None, Field(description="Tokens of the training file times epochs trained; null until the job's end.")
    ] = None
    error: Annotated[JobError | None, Field(description="Why the job failed; null unless it did.")] = None
    hyperparameters: Annotated[Hyperparameters, Field(description="The numbers the job trains with.")]
    result_files: Annotated[
        tuple[str, ...], Field(description="The id of `step_metrics.csv`, once the job has succeeded.")
    ] = ()
    seed: Annotated[int, Field(description="The seed of the job, the one asked for or the one drawn.")]
    estimated_finish: Annotated[
        int | None, Field(description="When the job is expected to end, in Unix seconds; null while nobody knows.")
    ] = None
    integrations: Annotated[
        tuple[dict[str, Any], ...] | None, Field(description="As they were asked for; null if there are none.")
    ] = None
    method: Annotated[dict[str, Any], Field(description="How the job trains: `type`, and the settings of that type.")]
    metadata: Annotated[Metadata | None, Field(description="The pairs the job was created with; null if none.")] = None
    user_provided_suffix: Annotated[
        str | None, Field(description="The suffix asked for, as it was; not in OpenAI's document, on its wire.")
    ] = None
    usage_metrics: Annotated[None, Field(description="Always null; not in OpenAI's document, on its wire.")] = None
    shared_with_openai: Annotated[
        Literal[False], Field(description="Always false; not in OpenAI's document, on its wire.")
    ] = False


class Level(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Event(Frozen):
    """One line of a job's history. `position` orders events and is the cursor; it is not sent."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "ftevent-dUtSxkWCHjvQzYqwGpkrGzPa",
                "object": "fine_tuning.job.event",
                "created_at": 1_790_000_100,
                "level": "info",
                "message": "Step 10/300: training loss=1.05",
                "type": "metrics",
                "data": {"step": 10, "total_steps": 300, "train_loss": 1.0498, "train_mean_token_accuracy": 0.71},
            }
        }
    )

    id: Annotated[str, Field(description="Identifier of the event, `ftevent-…`.")]
    object: Annotated[
        Literal["fine_tuning.job.event"], Field(description="The object type, always `fine_tuning.job.event`.")
    ] = "fine_tuning.job.event"
    created_at: Annotated[int, Field(description="When it happened, in Unix seconds.")]
    level: Annotated[Level, Field(description="How much it matters.")]
    message: Annotated[str, Field(description="What happened, in a sentence.")]
    type: Annotated[Literal["message", "metrics"], Field(description="`metrics` if `data` has the numbers of a step.")]
    data: Annotated[dict[str, Any], Field(description="What the sentence says, for programs; may be empty.")]
