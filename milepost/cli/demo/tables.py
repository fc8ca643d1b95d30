"""The fixed small set of tables the demo's forty test questions are about, served like an OpenAI account.

Every job id, model, number and name a test question asks for is here, with enough beside it that a wrong query seldom
gives the right rows: the best checkpoint is neither first nor last, no two times are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from milepost.resources.checkpoints import FineTuningJobCheckpoint, FineTuningJobCheckpointObject, Metrics
from milepost.resources.files import File, Purpose
from milepost.resources.jobs import Event, Hyperparameters, Job, JobError, Level, Status
from milepost.resources.models import Model
from milepost.sql.session import Provider, openai_provider

if TYPE_CHECKING:
    import httpx2

EPOCH = 1_790_000_000  # unix seconds; all times count from here
BASE_URL = "http://demo-tables.invalid/v1"  # nothing is ever sent there


@dataclass(frozen=True, slots=True)
class Run:
    """A job in short. `losses` are (step, train, valid, full valid) of its checkpoints, oldest first."""

    mark: str
    hour: int
    model: str
    suffix: str
    status: Status = Status.SUCCEEDED
    tokens: int | None = None
    error: JobError | None = None
    losses: tuple[tuple[int, float, float, float], ...] = ()
    messages: tuple[tuple[str, Level], ...] = ()

    @property
    def id(self) -> str:
        return f"ftjob-{self.mark}"

    @property
    def tuned(self) -> str:
        return f"ft:{self.model}:demo-org:{self.suffix}:{self.mark}"


INFO, WARN, ERROR = Level.INFO, Level.WARN, Level.ERROR

RUNS = (
    Run("c3v7", 2, "smollm2-135m-instruct", "tickets", tokens=18_300),
    Run(
        "m7t2",
        9,
        "llama-3.1-8b",
        "tickets",
        tokens=203_500,
        losses=((40, 0.91, 0.98, 1.02), (80, 0.52, 0.66, 0.71), (120, 0.31, 0.69, 0.68), (160, 0.18, 0.64, 0.77)),
    ),
    Run(
        "z6p4",
        14,
        "qwen3-4b",
        "invoices",
        Status.FAILED,
        error=JobError(code="invalid_training_file", message="Line 12 has no messages", param="training_file"),
    ),
    Run(
        "q4x8",
        21,
        "smollm2-135m-instruct",
        "router",
        tokens=71_200,
        losses=((25, 1.42, 1.31, 1.36), (50, 0.77, 0.83, 0.79), (75, 0.58, 0.80, 0.84)),
        messages=(
            ("Created fine-tuning job", INFO),
            ("Job started", INFO),
            ("Two examples were cut at 2048 tokens", WARN),
            ("Checkpoint created at step 75", INFO),
            ("The job has completed", INFO),
        ),
    ),
    Run("w1s6", 30, "gpt-4.1-mini", "invoices", tokens=39_800),
    Run(
        "b5n1",
        33,
        "llama-3.1-8b",
        "router-2",
        tokens=344_000,
        losses=((90, 0.84, 0.80, 0.88), (180, 0.49, 0.61, 0.59), (270, 0.33, 0.57, 0.55), (360, 0.21, 0.55, 0.63)),
    ),
    Run(
        "k9y3",
        41,
        "gpt-4.1-mini",
        "escalation",
        Status.FAILED,
        error=JobError(code="out_of_memory", message="The batch did not fit in memory", param=None),
    ),
    Run(
        "h2c6",
        47,
        "qwen3-4b",
        "router",
        tokens=52_600,
        losses=((30, 1.10, 1.21, 1.19), (60, 0.73, 0.92, 0.95), (90, 0.61, 0.88, 0.90)),
    ),
    Run("e8j2", 52, "smollm2-135m-instruct", "escalation", Status.CANCELLED, tokens=9_400),
    Run(
        "r8k5",
        58,
        "gpt-4.1-mini",
        "invoices",
        Status.FAILED,
        error=JobError(code="server_error", message="The training process was killed", param=None),
        messages=(
            ("Created fine-tuning job", INFO),
            ("Validating training file: file-t5", INFO),
            ("Files validated, moving job to queued state", INFO),
            ("Job started", INFO),
            ("Step 1: loss 2.11", INFO),
            ("Step 2: loss 2.04", INFO),
            ("The process ended; it is started again", WARN),
            ("Step 3: loss 1.97", INFO),
            ("The process ended again", WARN),
            ("The job failed: the training process was killed", ERROR),
        ),
    ),
    Run(
        "d9w3",
        63,
        "phi-5",
        "tickets-2",
        Status.RUNNING,
        losses=((15, 1.66, 1.71, 1.69), (30, 1.02, 1.13, 1.15)),
        messages=(
            ("Created fine-tuning job", INFO),
            ("Job started", INFO),
            ("Checkpoint created at step 15", INFO),
            ("Step 22: loss 1.19", INFO),
            ("Checkpoint created at step 30", INFO),
        ),
    ),
    Run("u7g1", 66, "phi-5", "handover", Status.QUEUED),
)

FILES = (
    ("file-a1", "tickets.jsonl", 48_210, Purpose.FINE_TUNE),
    ("file-b2", "floor-plan.png", 913_004, Purpose.VISION),
    ("file-c3", "handbook.pdf", 2_204_118, Purpose.ASSISTANTS),
    ("file-d4", "labels.csv", 7_733, Purpose.USER_DATA),
    ("file-e5", "receipt.png", 120_551, Purpose.VISION),
    ("file-f6", "router.jsonl", 91_377, Purpose.FINE_TUNE),
    ("file-g7", "glossary.md", 15_020, Purpose.ASSISTANTS),
    ("file-h8", "notes.txt", 1_912, Purpose.USER_DATA),
    ("file-i9", "step_metrics.csv", 3_345, Purpose.FINE_TUNE_RESULTS),
)

OWNERS = {
    "llama-3.1-8b": "meta",
    "northwind-small": "northwind",
    "northwind-large": "northwind",
    "contoso-chat": "contoso",
    "contoso-sql": "contoso",
    "contoso-code": "contoso",
    "qwen3-4b": "alibaba",
}


def provider() -> Provider:
    """The provider `openai` of an account that holds these tables, and that can only be read."""
    import httpx2

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(_answer))
    return openai_provider("openai", base_url=BASE_URL, api_key="not-needed", http_client=http, max_retries=0)


def _answer(request: httpx2.Request) -> httpx2.Response:
    import httpx2

    path = request.url.path.removeprefix("/v1")
    if request.method != "GET" or path not in (account := _account()):
        error = {"message": f"No {request.method} {path} here", "type": "invalid_request_error"}
        return httpx2.Response(404, json={"error": {**error, "param": None, "code": None}})
    found = account[path]
    return httpx2.Response(200, json=_page(found, request.url.params) if isinstance(found, list) else found)


def _page(rows: list[dict[str, Any]], asked: httpx2.QueryParams) -> dict[str, Any]:
    if "purpose" in asked:
        rows = [row for row in rows if row["purpose"] == asked["purpose"]]
    if "after" in asked:
        rows = rows[1 + [row["id"] for row in rows].index(asked["after"]) :]
    limit = int(asked.get("limit", len(rows)))
    return {"object": "list", "data": rows[:limit], "has_more": limit < len(rows)}


@cache
def _account() -> dict[str, Any]:
    """Path → object, or list of objects newest first."""
    jobs = {run.id: _job(run).model_dump(mode="json") for run in reversed(RUNS)}
    account: dict[str, Any] = {"/fine_tuning/jobs": list(jobs.values())}
    for run in RUNS:
        account[f"/fine_tuning/jobs/{run.id}"] = jobs[run.id]
        account[f"/fine_tuning/jobs/{run.id}/checkpoints"] = _newest_first(_checkpoints(run))
        account[f"/fine_tuning/jobs/{run.id}/events"] = _newest_first(_events(run))
    for path, things in (("/files", _files()), ("/models", _models())):
        account[path] = _newest_first(things)
        account |= {f"{path}/{thing['id']}": thing for thing in account[path]}
    return account


def _newest_first(things: list[Any]) -> list[dict[str, Any]]:
    return [thing.model_dump(mode="json") for thing in reversed(things)]


def _at(hour: float) -> int:
    return EPOCH + int(hour * 3600)


def _job(run: Run) -> Job:
    succeeded = run.status is Status.SUCCEEDED
    return Job(
        id=run.id,
        created_at=_at(run.hour),
        model=run.model,
        organization_id="org-demo",
        status=run.status,
        training_file=f"file-t{run.hour}",
        validation_file=f"file-v{run.hour}" if run.losses else None,
        fine_tuned_model=run.tuned if succeeded else None,
        finished_at=_at(run.hour + 1) if run.status.is_final else None,
        trained_tokens=run.tokens,
        error=run.error,
        hyperparameters=Hyperparameters(n_epochs=4, batch_size=8, learning_rate_multiplier=5.0),
        seed=run.hour,
        method={"type": "supervised", "supervised": {"hyperparameters": {}}},
        user_provided_suffix=run.suffix,
    )


def _checkpoints(run: Run) -> list[FineTuningJobCheckpoint]:
    """The last checkpoint of a finished job has the bare name, as the job has it."""
    last = run.losses[-1][0] if run.losses and run.status is Status.SUCCEEDED else None
    return [
        FineTuningJobCheckpoint(
            id=f"ftckpt_{run.mark}{step}",
            created_at=_at(run.hour) + 30 * step,
            fine_tuned_model_checkpoint=run.tuned if step == last else f"{run.tuned}:ckpt-step-{step}",
            step_number=step,
            metrics=Metrics(step=step, train_loss=train, valid_loss=valid, full_valid_loss=full),
            fine_tuning_job_id=run.id,
            object=FineTuningJobCheckpointObject.FINE_TUNING_JOB_CHECKPOINT,
        )
        for step, train, valid, full in run.losses
    ]


def _events(run: Run) -> list[Event]:
    return [
        Event(
            id=f"ftevent-{run.mark}{number}",
            created_at=_at(run.hour) + 60 * number,
            level=level,
            message=message,
            type="message",
            data={},
        )
        for number, (message, level) in enumerate(run.messages)
    ]


def _files() -> list[File]:
    return [
        File(id=file_id, bytes=size, created_at=_at(number), filename=filename, purpose=purpose)
        for number, (file_id, filename, size, purpose) in enumerate(FILES)
    ]


def _models() -> list[Model]:
    return [Model(id=name, created=_at(number), owned_by=owner) for number, (name, owner) in enumerate(OWNERS.items())]
