"""The run directory: the whole contract between the control plane and a training process (DESIGN §6).

::

    job.json             RunSpec      input, written once, mode 0600
    control.json         Control      input, replaced atomically
    lock                              flock held by the child
    progress.json        Progress     output, replaced atomically; wall-clock facts live here only
    events.jsonl         RunEvent     output, append-only, one JSON object a line
    checkpoints/step-N/  CheckpointMetrics (metrics.json), MANIFEST.json, adapter_model.safetensors, adapter_config.json
    state/step-N/                     output: what resume needs; the newest two are kept
    notices.jsonl        RunEvent     output, append-only: what its loggers say, whenever they say it
    wandb/, wandb-N.step              output: what the library of Weights & Biases keeps, and the last step it was given
    run.log                           the child's stdout and stderr
    result.json          Result       output, written last

Beside the folders of jobs lies `busy`, whose time of change says until when chats need the machine more than training
does: a child that sees it pauses between its batches, for some of the time. It changes when things are computed, never
what; where there is none, nothing is paused. In `trainers/`, if it is there too, each process that trains holds the
lock of a file `HOST-PID`, so that engines find it (`serving.beside`).

A job has two run directories, `validate` and `train`, since job.json is written once and names one task. Beside them
lies `examples/`, what validation has tokenised, for training to read (`training.kept`).
"""

from __future__ import annotations

import errno
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError

from milepost.resources.base import Frozen
from milepost.resources.checkpoints import Metrics
from milepost.resources.forecasts import Forecast, Speed
from milepost.resources.jobs import JobError, JobIntegration, Level
from milepost.resources.methods import MethodType, OnDivergence, Scheduler, Target

JOB = "job.json"
CONTROL = "control.json"
LOCK = "lock"
PROGRESS = "progress.json"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"
STATE = "state"
NOTICES = "notices.jsonl"
LOG = "run.log"
RESULT = "result.json"
EXAMPLES = "examples"
MANIFEST = "MANIFEST.json"
METRICS = "metrics.json"
BUSY = "busy"
TRAINERS = "trainers"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

#: On a GPU, sums in one order (torch's notes on reproducibility): of training and of engines.
SUMS_IN_ORDER = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

#: What a launcher adds to a child's environment (reference/training.md). Fresh pages cost 8 times reused ones, so
#: malloc keeps what it has (32 MiB is the largest mmap threshold glibc takes; a larger one is ignored). Threads that
#: wait spin for a moment only: never spinning costs a fifth when alone, spinning long loses three quarters beside any
#: other process (bench/LOG.md).
CHILD_ENVIRONMENT = {
    **SUMS_IN_ORDER,
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "GOMP_SPINCOUNT": "1000",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


#: What the system says where there is no room: a full disk, a full quota, a file larger than one may be.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: The codes of errors that are the machine's and not the job's: no room on its disk, or not enough memory.
DISK_FULL, OUT_OF_MEMORY = "disk_full", "out_of_memory"


class Task(StrEnum):
    VALIDATE = "validate"
    TRAIN = "train"


#: The child_seq of a task's first event. The two runs of a job count in one row, or the second's events would be taken
#: for the first's, read twice; validation tells of two times 50 bad lines at most.
FIRST_SEQ = {Task.VALIDATE: 1, Task.TRAIN: 1001}


#: The child_seq of the first notice. Notices are not in the order of events: whether a logger fails, and when, is no
#: part of what a run computes, and a second life need not say it again.
NOTICE_SEQ = 901
#: The number of the first notice of a damaged state; those before are the loggers'.
DAMAGE_NOTICE = 50


#: In place of a run directory on a child's command line: import what training needs, and wait on stdin for an `Order`.
WAIT = "--wait"


class Order(Frozen):
    """The line that tells a waiting child where to run, and what to add to its environment."""

    directory: str
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)


class Source(Frozen):
    """A file or folder the child reads: where it lies, and the sha256 it must have."""

    name: str
    path: str
    hash: str


class DataFile(Frozen):
    """Training or validation data. `param` is the request's field, so that errors can name it."""

    file_id: str
    path: str
    hash: str
    param: Literal["training_file", "validation_file"]


class RunHyperparameters(Frozen):
    """Resolved: numbers only. `learning_rate` is absolute; the multiplier is in it already.

    `lora_rank`, `lora_alpha` and `lora_targets` None are those of the adapter that training goes on from, else 16,
    twice the rank, and all. State is saved each time about `state_every_tokens` have been trained: some 30 seconds of
    two cores, at a cost of one in a hundred. `keep_checkpoints` is for the control plane: a run keeps all.
    """

    n_epochs: int
    batch_size: int
    learning_rate: float
    lr_scheduler: Scheduler = "linear"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    lora_targets: tuple[Target, ...] | None = None
    max_length: int = 2048
    early_stopping_patience: int | None = None
    checkpoint_every: int | None = None
    keep_checkpoints: int | None = None
    on_divergence: OnDivergence = "fail"
    spike_threshold: float | None = None
    beta: float = 0.1
    state_every_tokens: int = 20_000


class RunSpec(Frozen):
    """job.json. `dtype` "auto" is decided by a measurement before the first step and kept in state/step-0.

    `adapter` is the folder of the adapter that training goes on from, with the hash of its weights. `speed` is what was
    measured of this machine earlier, if anything was.
    """

    format: Literal[1] = 1
    task: Task
    job_id: str
    method: MethodType
    hyperparameters: RunHyperparameters
    seed: int
    threads: int
    #: `auto`: a GPU if there is one
    device: str = "auto"
    #: the most memory it may have for its data, if that is not the machine's to say
    memory_bytes: int | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    base: Source
    training: DataFile
    validation: DataFile | None = None
    adapter: Source | None = None
    speed: Speed | None = None
    #: the folder that has a folder of TensorBoard's for each job
    tensorboard: str | None = None
    integrations: tuple[JobIntegration, ...] = ()


class Wanted(StrEnum):
    """A run that is to pause or stop saves its state and ends; to pause is a user's wish, so it publishes a checkpoint
    of the step it has reached as well.
    """

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


class Control(Frozen):
    """control.json. The lease ends `lease_s` after the child has first read it, by a clock that does not jump: another
    `lease_until`, in the workers' time, is another lease.
    """

    wanted: Wanted = Wanted.RUN
    lease_until: float | None = None
    lease_s: float = 0.0


class Progress(Frozen):
    """progress.json. `heartbeat` is unix seconds with fraction; `eta_s` seconds from the heartbeat to the end. `pid` is
    of the machine `host`: on another one it is a stranger's.

    `spent_s` and `peak_memory_bytes` are of all lives of the run so far.
    """

    heartbeat: float
    pid: int
    host: str = ""
    phase: Literal["starting", "validating", "training", "evaluating", "saving", "done"]
    step: int = 0
    total_steps: int = 0
    train_loss: float | None = None
    tokens_per_s: float | None = None
    eta_s: float | None = None
    spent_s: float = 0.0
    peak_memory_bytes: int = 0


class RunEvent(Frozen):
    child_seq: int
    at: int
    level: Level = Level.INFO
    type: Literal["message", "metrics"] = "message"
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


def readable(written: bytes, *, past_faults: bool = False) -> tuple[list[RunEvent], int]:
    """The events of a file up to the first line that is torn or cannot be read, and how many bytes they take.

    With `past_faults` lines that cannot be read are left out, and only a torn one ends it.
    """
    told: list[RunEvent] = []
    size = 0
    for line in written.split(b"\n")[:-1]:
        try:
            told.append(RunEvent.model_validate_json(line))
        except ValidationError:
            if not past_faults:
                break
        size += len(line) + 1
    return told, size


class CheckpointMetrics(Frozen):
    """metrics.json of a checkpoint. `final` tells the last one, whose name is the bare model name."""

    step: int
    total_steps: int
    epoch: float
    final: bool
    metrics: Metrics


class Manifest(Frozen):
    """MANIFEST.json, written last: a checkpoint without it does not exist. Keys are file names, values sha256."""

    sha256: dict[str, str]


class Outcome(StrEnum):
    VALIDATED = "validated"
    SUCCEEDED = "succeeded"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class Conditions(Frozen):
    """What a run's bytes depend on beside its job.json, whose sha256 is among them. `instructions` are the set that
    torch computes with.
    """

    job_sha256: str
    dtype: str
    threads: int
    processor: str
    instructions: str


class Result(Frozen):
    """result.json. Counts are of tokens: `trained_tokens` is tokens learnt from, over all epochs; those of the
    `skipped_steps` are not among them. `forecast` is a validation's, and so is `speed`, if the machine was measured
    for it.
    """

    outcome: Outcome
    error: JobError | None = None
    step: int = 0
    total_steps: int = 0
    training_tokens: int | None = None
    trained_tokens: int | None = None
    skipped_steps: int = 0
    conditions: Conditions | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    forecast: Forecast | None = None
    speed: Speed | None = None
