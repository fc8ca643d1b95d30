"""What a job's history says, word for word as OpenAI's does (reference/openai-contract.md §3.2), and our own additions.

Scripts look for these sentences: a change here breaks them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from milepost.jobs.hyperparameters import Resolved
from milepost.resources.base import random_alphanumeric
from milepost.resources.jobs import JobError, JobRequest, Level
from milepost.resources.models import Base
from milepost.resources.runs import RunEvent


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


def created(job_id: str, request: JobRequest, base: Base, resolved: Resolved) -> list[Entry]:
    """The first events of a job."""
    validating = f"Validating training file: {request.training_file}"
    if request.validation_file is not None:
        validating += f" and validation file: {request.validation_file}"
    entries = [Entry(f"Created fine-tuning job: {job_id}"), Entry(validating)]
    if request.model != base.name:
        entries.append(
            Entry(
                f"`{request.model}` stands for `{base.name}` on this server: the job tunes `{base.name}`",
                data={"alias": request.model, "model": base.name},
            )
        )
    rates = {"learning_rate": resolved.run.learning_rate, "base_learning_rate": resolved.base_rate}
    entries.append(Entry(resolved.reason, data={**resolved.shown.model_dump(), **rates}))
    if request.integrations:
        entries.append(
            Entry("Integrations are noted on the job, but this server sends nothing to them", level=Level.WARN)
        )
    return entries


def integrations(job_id: str, request: JobRequest) -> tuple[dict[str, Any], ...]:
    """As the job shows them: OpenAI's server adds the run's id to Weights & Biases."""
    return tuple(
        {**each, "wandb": {"name": None, "entity": None, "tags": [], **each["wandb"], "run_id": job_id}}
        if isinstance(each.get("wandb"), dict)
        else each
        for each in request.integrations or ()
    )


def from_child(event: RunEvent) -> Entry:
    return Entry(event.message, event.level, event.type, event.data, event.at, event.child_seq)


def restarted(why: str) -> Entry:
    return Entry(f"{why} It is started again and goes on from its last saved state", level=Level.WARN)


def checkpoint_created(step: int, name: str) -> Entry:
    return Entry(f"Checkpoint created at step {step} with Snapshot ID: {name}")


def succeeded(model: str) -> tuple[Entry, ...]:
    return Entry(f"New fine-tuned model created: {model}"), Entry("The job has successfully completed")


def failed(error: JobError) -> Entry:
    return Entry(error.message, level=Level.ERROR, data={"error_code": error.code, "error_param": error.param})


def checkpoint_name(base: str, organization: str, suffix: str | None, step: int | None) -> str:
    """A fresh name; `step` None is the last checkpoint's. Eight characters are drawn: call it once per checkpoint."""
    slug = re.sub(r"[^a-z0-9-]+", "-", (suffix or "").lower()).strip("-")
    tail = "" if step is None else f":ckpt-step-{step}"
    return f"ft:{base}:{organization}:{slug}:{random_alphanumeric(8)}{tail}"


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
