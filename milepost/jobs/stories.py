"""What a job's history says, word for word as OpenAI's does (reference/openai-contract.md §3.2), and our own additions.

Scripts look for these sentences: a change here breaks them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from milepost.jobs.hyperparameters import Resolved
from milepost.jobs.reasons import FURTHER
from milepost.resources.base import random_alphanumeric
from milepost.resources.jobs import JobError, JobIntegration, JobQueue, JobRequest, Level, Status, WandbRun
from milepost.resources.models import Base
from milepost.resources.runs import RunEvent
from milepost.store.models import Tuned


@dataclass(frozen=True, slots=True)
class Entry:
    """An event before it has an id and a position. `at` None is the time of the transaction that tells it."""

    message: str
    level: Level = Level.INFO
    type: Literal["message", "metrics"] = "message"
    data: Mapping[str, Any] = field(default_factory=dict)
    at: int | None = None
    child_seq: int | None = None


VALIDATED = Entry("Files validated, moving job to queued state")
STARTED = Entry("Fine-tuning job started")
RESUMED = Entry("Fine-tuning job resumed from its last saved state")
REQUEUED = Entry("Training was interrupted: the job is back in the queue and goes on from its last saved state")
CANCELLED = Entry("Fine-tuning job cancelled; its checkpoints are kept")
PAUSED = Entry("Fine-tuning job paused")
PAUSED_RUNNING = Entry("Fine-tuning job paused: it writes a checkpoint of the step it has reached, and stops")
UNPAUSED = Entry("Fine-tuning job is no longer paused: it is back in the queue")


ROOM_AGAIN = Entry("There is room on the server's disk again: the job is back in the queue")
WANT_OF_ROOM = "for want of room on the server's disk"
#: How the event of a job ends that goes on when there is room.
BY_ITSELF = "It goes on by itself when there is room again"


#: What can be done with a job, by the status it was found in when something else was asked.
INSTEAD = {
    Status.VALIDATING: "its files are being checked, which takes seconds: it can be cancelled now, and paused once it "
    "is queued",
    Status.QUEUED: "it starts by itself when its turn comes; it can be paused or cancelled",
    Status.RUNNING: "it can be paused or cancelled",
    Status.PAUSED: "it can be resumed or cancelled",
    Status.SUCCEEDED: "it has ended. Its model answers, and can be the `model` of a new job",
    Status.FAILED: "it has ended: its `error` says why. Create a new job",
    Status.CANCELLED: "it has ended. Create a new job, which may go on from one of its checkpoints",
}


def created(
    job_id: str, request: JobRequest, base: Base, resolved: Resolved, parent: Tuned | None = None
) -> list[Entry]:
    """The first events of a job."""
    validating = f"Validating training file: {request.training_file}"
    if request.validation_file is not None:
        validating += f" and validation file: {request.validation_file}"
    entries = [Entry(f"Created fine-tuning job: {job_id}"), Entry(validating)]
    if parent is not None:
        entries.append(
            Entry(
                f"Training goes on from `{parent.name}`, which was tuned from `{base.name}`: it begins with its "
                "weights, and keeps their LoRA rank, alpha and targets",
                data={"parent": parent.name, "parent_checkpoint": parent.id, "model": base.name},
            )
        )
    elif request.model != base.name:
        entries.append(
            Entry(
                f"`{request.model}` stands for `{base.name}` on this server: the job tunes `{base.name}`",
                data={"alias": request.model, "model": base.name},
            )
        )
    entries.append(Entry(resolved.reason, data=resolved.settings))
    entries.append(Entry(resolved.further, data={name: resolved.settings[name] for name in FURTHER}))
    if request.suffix is not None and (short := slug(request.suffix)) != request.suffix:
        entries.append(
            Entry(f"In the names of its models the suffix `{request.suffix}` is `{short}`", data={"suffix": short})
        )
    return entries


def integrations(job_id: str, request: JobRequest) -> tuple[JobIntegration, ...]:
    """As the job shows them: OpenAI's server adds the run's id to Weights & Biases."""
    return tuple(
        JobIntegration(
            type=each.type,
            wandb=WandbRun(
                project=each.wandb.project,
                name=each.wandb.name,
                entity=each.wandb.entity,
                tags=each.wandb.tags or (),
                run_id=job_id,
            ),
        )
        for each in request.integrations or ()
    )


def from_child(event: RunEvent) -> Entry:
    return Entry(event.message, event.level, event.type, event.data, event.at, event.child_seq)


def restarted(why: str) -> Entry:
    return Entry(f"{why} It is started again and goes on from its last saved state", level=Level.WARN)


def restarted_to_pause(why: str) -> Entry:
    return Entry(f"{why} It is started again to write the checkpoint of its last saved state", level=Level.WARN)


def lost(worker: str) -> Entry:
    message = f"The worker `{worker}` was not heard of any more: the job is back in the queue"
    return Entry(message, level=Level.WARN, data={"worker": worker})


def waits(place: JobQueue) -> Entry:
    start = place.estimated_start
    when = f"; it may start at {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M:%S} UTC" if start is not None else ""
    return Entry(f"Waiting at position {place.position} of the queue{when}. {place.reason}", data=place.model_dump())


def no_room(why: str, *, waits_by_itself: bool) -> Entry:
    """A job whose event ends in BY_ITSELF is looked at again (`jobs.trouble`)."""
    then = BY_ITSELF if waits_by_itself else "It has gone on too often in vain: resume it when there is room for good"
    return Entry(f"Fine-tuning job paused {WANT_OF_ROOM}: {why} {then}", level=Level.WARN)


def nothing_saved(why: str) -> Entry:
    return Entry(f"Not all was saved {WANT_OF_ROOM}: {why} It is done again when the job goes on", level=Level.WARN)


def checkpoint_created(step: int, name: str) -> Entry:
    return Entry(f"Checkpoint created at step {step} with Snapshot ID: {name}")


def succeeded(model: str) -> tuple[Entry, ...]:
    return Entry(f"New fine-tuned model created: {model}"), Entry("The job has successfully completed")


def failed(error: JobError) -> Entry:
    return Entry(error.message, level=Level.ERROR, data={"error_code": error.code, "error_param": error.param})


def checkpoint_name(base: str, organization: str, suffix: str | None, step: int | None) -> str:
    """A fresh name; `step` None is the last checkpoint's. Eight characters are drawn: call it once per checkpoint."""
    tail = "" if step is None else f":ckpt-step-{step}"
    return f"ft:{base}:{organization}:{slug(suffix or '')}:{random_alphanumeric(8)}{tail}"


def slug(suffix: str) -> str:
    """A suffix as names have it: accents fall away, what is not of a-z, 0-9 and the hyphen becomes a hyphen."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", suffix) if not unicodedata.combining(each))
    return re.sub(r"[^a-z0-9-]+", "-", plain.lower()).strip("-")


#: Columns of `step_metrics.csv`, and the keys of a metrics event they come from.
_COLUMNS = {
    "step": "step",
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "valid_loss": "valid_loss",
    "valid_mean_token_accuracy": "valid_mean_token_accuracy",
}


def step_metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The result file: one row per step, five decimals, an empty cell where nothing was measured."""
    lines = [",".join(_COLUMNS)]
    lines += [",".join(_cell(data.get(key)) for key in _COLUMNS.values()) for data in metrics]
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.5f}"
