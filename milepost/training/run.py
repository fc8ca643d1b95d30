"""What a training process does with its run directory, from the lock to result.json."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from milepost.errors import Conflict, Error
from milepost.resources.jobs import JobError
from milepost.resources.runs import Outcome, Result, Task
from milepost.training.directory import Directory, held
from milepost.training.loggers import reporting
from milepost.training.validate import validate

log = logging.getLogger(__name__)

#: Exit codes: done (whatever result.json says), failed by a bug, another process holds the directory.
DONE, FAILED, HELD = 0, 1, 3


def main(path: Path) -> int:
    """Run the task of `path`/job.json to its result; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with held(path) as run:
            return run_task(run)
    except Conflict as error:
        log.error("%s", error.message)  # noqa: TRY400 (no bug: a traceback would say nothing)
        return HELD


def run_task(run: Directory) -> int:
    """Do what is left of the task. A mistake in the input is a result; so is a bug, whose traceback goes to run.log."""
    if run.earlier_result():
        return DONE
    log.info("%s of %s begins", run.spec.task, run.spec.job_id)
    code = DONE
    try:
        result = TASKS[run.spec.task](run)
    except Error as error:
        log.warning("failed: %s", error.message)
        reason = JobError(code=error.code or "server_error", message=error.message, param=error.param)
        result = Result(outcome=Outcome.FAILED, error=reason)
    except Exception:
        log.exception("failed")
        reason = JobError(
            code="server_error", message="The training process failed; the server's run.log of this job tells why."
        )
        result, code = Result(outcome=Outcome.FAILED, error=reason), FAILED
    run.finish(result)
    log.info("%s of %s: %s", run.spec.task, run.spec.job_id, result.outcome)
    return code


def _train(run: Directory) -> Result:
    from milepost.training.loop import train  # torch: seconds that a validation need not wait

    with reporting(run):
        return train(run)


TASKS: dict[Task, Callable[[Directory], Result]] = {Task.VALIDATE: validate, Task.TRAIN: _train}
