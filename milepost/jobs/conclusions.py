"""What becomes of a job when its child has ended, by the outcome it ended with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from milepost.jobs import ledger, runs, stories
from milepost.resources.jobs import JobError
from milepost.resources.runs import Outcome, Result
from milepost.store.database import Database


def conclude(database: Database, job_id: str, directory: Path, result: Result, now: float, *, holder: str) -> None:
    """Move a job to what its child's result makes of it. Raises `Conflict` if it was cancelled or paused meanwhile."""
    _CONCLUSIONS[result.outcome](database, job_id, directory, result, now, holder)


def _validated(database: Database, job_id: str, _directory: Path, result: Result, now: float, holder: str) -> None:
    ledger.queue(database, job_id, now, stories.VALIDATED, result.forecast, holder=holder)


def _succeeded(  # noqa: PLR0917 (as the others)
    database: Database, job_id: str, directory: Path, result: Result, now: float, holder: str
) -> None:
    ledger.succeed(database, job_id, result, now, runs.actual(directory, result), holder=holder)
    runs.forget_examples(directory)


def _put_off(database: Database, job_id: str, _directory: Path, _result: Result, now: float, holder: str) -> None:
    ledger.queue(database, job_id, now, stories.REQUEUED, holder=holder)


def _failed(  # noqa: PLR0917 (as the others)
    database: Database, job_id: str, directory: Path, result: Result, now: float, holder: str
) -> None:
    unsaid = JobError(code="training_failed", message="The training process failed and did not say why.")
    ledger.fail(database, job_id, result.error or unsaid, now, holder=holder)
    runs.forget_examples(directory)


_CONCLUSIONS: dict[Outcome, Callable[[Database, str, Path, Result, float, str], None]] = {
    Outcome.VALIDATED: _validated,
    Outcome.SUCCEEDED: _succeeded,
    Outcome.PAUSED: _put_off,
    Outcome.STOPPED: _put_off,
    Outcome.FAILED: _failed,
}
