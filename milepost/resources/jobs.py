"""The `fine_tuning.job` and `fine_tuning.job.event` objects, and the status table."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from milepost.resources.base import Frozen
from milepost.resources.forecasts import Forecast
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

#: Those of a job that waits for a worker.
WAITING = (Status.VALIDATING, Status.QUEUED)


def sources(to: Status) -> tuple[Status, ...]:
    """The statuses from which a job may become `to`."""
    return tuple(status for status, targets in NEXT.items() if to in targets)


class JobError(Frozen):
    """Why a job failed."""

    code: Annotated[str, Field(description="The cause, for programs.", examples=["invalid_training_file"])]
    message: Annotated[
        str,
        Field(
            description="The cause, for people: what is wrong, where, and what to do.",
            examples=["Training file has 8 example(s), but must have at least 10 examples"],
        ),
    ]
    param: Annotated[
        str | None,
        Field(description="The field of the request that the cause lies in, if it is one.", examples=["training_file"]),
    ] = None


Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
]
JobMetadata = Annotated[
    Metadata | None,
    Field(
        description=(
            "Up to 16 pairs of your own: keys of at most 64 characters, values of at most 512. "
            "Lists of jobs can be filtered by them."
        ),
        examples=[{"team": "support", "experiment": "7"}],
    ),
]


#: Of the names of W&B's projects, which have 128 characters at most (`validate_project` in its library's settings).
_NOT_IN_PROJECTS = set("/\\#?%:")


def _allowed_by_wandb(project: str) -> str:
    """The library looks itself, but in the training process: what it says there is in the server's run.log only."""
    if not project.strip():
        raise PydanticCustomError("wandb_project", "A project's name has more than blanks")
    if found := sorted(set(project) & _NOT_IN_PROJECTS):
        raise PydanticCustomError(
            "wandb_project", "Weights & Biases allows no {found} in the name of a project", {"found": " ".join(found)}
        )
    return project


class Wandb(Frozen):
    """Where in Weights & Biases a run is shown."""

    project: Annotated[
        str,
        Field(min_length=1, max_length=128, description="The project of the new run.", examples=["my-project"]),
        AfterValidator(_allowed_by_wandb),
    ]
    name: Annotated[
        str | None, Field(description="The name of the run; null for the id of the job.", examples=["first-try"])
    ] = None
    entity: Annotated[
        str | None, Field(description="The team or user of the run; null for the default one.", examples=["my-team"])
    ] = None
    tags: Annotated[tuple[str, ...] | None, Field(description="Tags of the run.", examples=[["small", "new-data"]])] = (
        None
    )


class Integration(Frozen):
    """A service that a job reports to: its steps, checkpoints and hyperparameters, and nothing of its data."""

    type: Annotated[Literal["wandb"], Field(description="The service; there is one only.", examples=["wandb"])]
    wandb: Annotated[Wandb, Field(description="Where Weights & Biases shows it.")]


class WandbRun(Wandb):
    """As a job shows it: with the id of the run, which is that of the job."""

    #: Read back as it was once accepted.
    project: Annotated[str, Field(description="The project of the new run.", examples=["my-project"])]
    tags: Annotated[tuple[str, ...], Field(description="Tags of the run.", examples=[["small", "new-data"]])] = ()
    run_id: Annotated[
        str, Field(description="The id of the run: that of the job.", examples=["ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB"])
    ]


class JobIntegration(Frozen):
    """An integration as a job shows it."""

    type: Annotated[Literal["wandb"], Field(description="The service; there is one only.", examples=["wandb"])]
    wandb: Annotated[WandbRun, Field(description="Where Weights & Biases shows it.")]


class JobRequest(Frozen):
    """The body of `POST /fine_tuning/jobs`. `method` wins over the deprecated top-level `hyperparameters`."""

    model: Annotated[
        str,
        Field(
            min_length=1,
            description=(
                "What to tune: a base model, an alias of one, or a tuned model or checkpoint, from whose weights "
                "training then goes on."
            ),
            examples=["smollm2-135m-instruct", "ft:smollm2-135m-instruct:personal:demo:9uJPbR69:ckpt-step-30"],
        ),
    ]
    training_file: Annotated[
        str,
        Field(
            min_length=1,
            description="The id of an uploaded file with purpose `fine-tune`: JSONL, an example a line.",
            examples=["file-N1hVtpFhTyWbNXuLN8SBPvNG"],
        ),
    ]
    validation_file: Annotated[
        str | None,
        Field(
            description=(
                "The id of a second such file, which is measured and never trained on. It must not be the training "
                "file, and should share no example with it."
            ),
            examples=["file-0vLmVYnPqQ3oYcXK7sXrcTjv"],
        ),
    ] = None
    suffix: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=64,
            description=(
                "Stands in the names of the job's models, in lower case, with hyphens for what is neither a letter "
                "of a to z, a digit nor a hyphen."
            ),
            examples=["my-experiment"],
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=2**31 - 1,
            description=(
                "The same seed, files and settings give the same weights, bit for bit on one machine. "
                "Drawn and shown on the job if it is not given."
            ),
            examples=[42],
        ),
    ] = None
    method: Annotated[
        Method | None,
        Field(
            description="How to train, with the hyperparameters of that method. Members of other methods are not read.",
            examples=[{"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}],
        ),
    ] = None
    hyperparameters: Annotated[
        SupervisedHyperparameters | None,
        Field(
            json_schema_extra={"deprecated": True},  # pydantic's own word for it would warn us as well
            description="Of the method `supervised`, where `method` does not say otherwise. Use `method` instead.",
            examples=[{"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}],
        ),
    ] = None
    integrations: Annotated[
        tuple[Integration, ...] | None,
        Field(
            max_length=5,
            description="Where the job reports to, at most 5, if the server has a key for it; an event tells.",
            examples=[[{"type": "wandb", "wandb": {"project": "my-project", "tags": ["small"]}}]],
        ),
    ] = None
    metadata: JobMetadata = None


class Hyperparameters(Frozen):
    """As the job shows them: numbers once resolved. Whole numbers stay whole (Go's SDK types them as ints).

    Whatever else was asked for rides along under its name.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    n_epochs: Annotated[
        Auto | Epochs, Field(description="How often the whole training file is seen.", examples=[3])
    ] = "auto"
    batch_size: Annotated[
        Auto | BatchSize, Field(description="How many examples one step learns from.", examples=[8])
    ] = "auto"
    learning_rate_multiplier: Annotated[
        Auto | Multiplier,
        Field(
            description="Multiplies the learning rate that suits the base; the job's first events tell the product.",
            examples=[1.0],
        ),
    ] = "auto"


class JobProgress(Frozen):
    """How far a job is while it runs, by what its process said last; some seconds old at most."""

    phase: Annotated[
        Literal["starting", "training", "evaluating", "saving", "done"],
        Field(description="What its process is doing.", examples=["training"]),
    ]
    step: Annotated[int, Field(description="Steps taken.", examples=[120])]
    total_steps: Annotated[
        int | None, Field(description="Steps there are; null until they are counted.", examples=[300])
    ] = None
    tokens_per_s: Annotated[
        float | None,
        Field(
            description=(
                "Tokens trained per second since its process started, evaluations and saving included; null until "
                "a step is done."
            ),
            examples=[612.4],
        ),
    ] = None


class JobQueue(Frozen):
    """Where a job stands that waits, if nothing is added or taken out: projects take turns, and within one the oldest
    job goes first.
    """

    position: Annotated[int, Field(description="1 for the job that starts next.", examples=[2])]
    reason: Annotated[
        str, Field(description="Why it does not run yet.", examples=["1 of at most 1 jobs run on this server"])
    ]
    estimated_start: Annotated[
        int | None,
        Field(
            description="When it may start, in unix seconds, from what is foreseen of the jobs before it; null if that "
            "is not known of one of them.",
            examples=[1795000400],
        ),
    ] = None


class Job(Frozen):
    """A fine-tuning job. Every documented key is sent; `error` is null unless the job failed."""

    id: Annotated[str, Field(description="The id of the job.", examples=["ftjob-4Q9hXKfQvyYtPzLVSLgMdWAB"])]
    object: Annotated[Literal["fine_tuning.job"], Field(description="Always `fine_tuning.job`.")] = "fine_tuning.job"
    created_at: Annotated[int, Field(description="When it was created, in unix seconds.", examples=[1795000000])]
    model: Annotated[
        str,
        Field(
            description=(
                "What is tuned: the base model, also where the request named an alias of it; or the tuned model or "
                "checkpoint that training goes on from."
            ),
            examples=["smollm2-135m-instruct"],
        ),
    ]
    organization_id: Annotated[
        str, Field(description="The organisation it belongs to.", examples=["org-3bMiwc9Nq8FkXVdSlOyqWZBr"])
    ]
    status: Annotated[
        Status,
        Field(
            description=(
                "Where it stands. `paused` is not in the SDKs' enum: a server may be set to say `queued` instead "
                "(MILEPOST_PAUSED_STATUS), and `is_paused` tells either way."
            ),
            examples=["running"],
        ),
    ]
    training_file: Annotated[
        str, Field(description="The id of the training file.", examples=["file-N1hVtpFhTyWbNXuLN8SBPvNG"])
    ]
    validation_file: Annotated[
        str | None,
        Field(
            description="The id of the validation file, if there is one.", examples=["file-0vLmVYnPqQ3oYcXK7sXrcTjv"]
        ),
    ]
    fine_tuned_model: Annotated[
        str | None,
        Field(
            description="The name of the tuned model; null until the job has succeeded.",
            examples=["ft:smollm2-135m-instruct:personal:my-experiment:9uJPbR69"],
        ),
    ] = None
    finished_at: Annotated[
        int | None,
        Field(description="When it succeeded, failed or was cancelled, in unix seconds.", examples=[1795000500]),
    ] = None
    trained_tokens: Annotated[
        int | None,
        Field(description="Tokens seen in training, over all epochs; null until it succeeded.", examples=[5070]),
    ] = None
    error: Annotated[JobError | None, Field(description="Why it failed; null unless it did.")] = None
    hyperparameters: Annotated[
        Hyperparameters, Field(description="The numbers it trains with, also where `auto` was asked for.")
    ]
    result_files: Annotated[
        tuple[str, ...],
        Field(
            description="The id of its `step_metrics.csv`, once it has succeeded.",
            examples=[["file-7qkDxXmPzWb2nUVyLJ0ohRcT"]],
        ),
    ] = ()
    seed: Annotated[int, Field(description="The seed, given or drawn.", examples=[42])]
    estimated_finish: Annotated[
        int | None,
        Field(
            description="When it will be done, in unix seconds, from its speed so far; null unless it runs.",
            examples=[1795000500],
        ),
    ] = None
    integrations: Annotated[
        tuple[JobIntegration, ...] | None,
        Field(description="Where it reports to; an event tells whether it does."),
    ] = None
    method: Annotated[
        dict[str, Any],
        Field(
            description="How it trains: `type`, and under the name of the method its hyperparameters.",
            examples=[
                {
                    "type": "supervised",
                    "supervised": {
                        "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
                    },
                }
            ],
        ),
    ]
    metadata: JobMetadata = None
    user_provided_suffix: Annotated[
        str | None, Field(description="The suffix as it was asked for.", examples=["my-experiment"])
    ] = None
    usage_metrics: Annotated[None, Field(description="Always null, as OpenAI's is.")] = None
    shared_with_openai: Annotated[Literal[False], Field(description="Always false: nothing is sent to OpenAI.")] = False
    progress: Annotated[
        JobProgress | None,
        Field(description="How far it is; null unless it runs. Ours: OpenAI's jobs lack it."),
    ] = None
    queue: Annotated[
        JobQueue | None,
        Field(description="Where it stands in the queue; null unless it waits there. Ours: OpenAI's jobs lack it."),
    ] = None
    is_paused: Annotated[
        bool,
        Field(description="Whether it is paused, whatever word `status` has for it. Ours: OpenAI's jobs lack it."),
    ] = False
    forecast: Annotated[
        Forecast | None,
        Field(
            description=(
                "What it will cost on this machine, once its files are validated; `actual` is what it did cost. Ours: "
                "OpenAI's jobs lack it."
            )
        ),
    ] = None


class Level(StrEnum):
    """How much an event matters."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Event(Frozen):
    """One line of a job's history, newest first in lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(description="The id of the event.", examples=["ftevent-dUtSxkWCHjvQzYqwGpkrGzPa"])]
    object: Annotated[Literal["fine_tuning.job.event"], Field(description="Always `fine_tuning.job.event`.")] = (
        "fine_tuning.job.event"
    )
    created_at: Annotated[int, Field(description="When it happened, in unix seconds.", examples=[1795000100])]
    level: Annotated[Level, Field(description="How bad it is.", examples=["info"])]
    message: Annotated[
        str,
        Field(description="What happened, in a sentence.", examples=["Step 10/300: training loss=1.05"]),
    ]
    type: Annotated[
        Literal["message", "metrics"], Field(description="`metrics` for a step of training.", examples=["metrics"])
    ]
    data: Annotated[
        dict[str, Any],
        Field(
            description="The numbers of a step with all their digits; of a message, what it names; else empty.",
            examples=[{"step": 10, "total_steps": 300, "train_loss": 1.0498, "train_mean_token_accuracy": 0.71}],
        ),
    ]
