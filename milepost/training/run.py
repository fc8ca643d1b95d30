"""What a training process does with its run directory, from the lock to result.json."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from milepost.errors import Conflict, Error
from milepost.modeling import machine
from milepost.resources.jobs import JobError
from milepost.resources.runs import DISK_FULL, NO_ROOM, OUT_OF_MEMORY, Outcome, Result, Task
from milepost.training.directory import Directory, held
from milepost.training.loggers import reporting

log = logging.getLogger(__name__)

#: Exit codes: done (whatever result.json says), failed by a bug, another process holds the directory, no room on the
#: disk to say so in result.json.
DONE, FAILED, HELD, FULL = 0, 1, 3, 4

#: How PyTorch and oneDNN say that memory could not be had; they have no class for it.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "CUDA out of memory",
)


def main(path: Path) -> int:
    """Run the task of `path`/job.json to its result; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        with held(path) as run:
            return run_task(run)
    except Conflict as error:
        log.error("%s", error.message)  # noqa: TRY400 (no bug: a traceback would say nothing)
        return HELD
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        log.exception("no room for the result")
        return FULL


def run_task(run: Directory) -> int:
    """Do what is left of the task. A mistake in the input is a result; so is a bug, whose traceback goes to run.log."""
    if run.earlier_result():
        return DONE
    log.info("%s of %s begins", run.spec.task, run.spec.job_id)
    code = DONE
    if run.spec.memory_bytes is not None:
        machine.limit_memory(run.spec.memory_bytes)
    try:
        result = TASKS[run.spec.task](run)
    except Error as error:
        log.warning("failed: %s", error.message)
        reason = JobError(code=error.code or "server_error", message=error.message, param=error.param)
        result = Result(outcome=Outcome.FAILED, error=reason)
    except Exception as error:
        log.exception("failed")
        result, code = Result(outcome=Outcome.FAILED, error=_reason(error)), FAILED
    run.finish(result)
    log.info("%s of %s: %s", run.spec.task, run.spec.job_id, result.outcome)
    return code


def _reason(error: Exception) -> JobError:
    """What is told of an error that is none of ours: the machine's limits by name, a bug without its text."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return JobError(code=DISK_FULL, message=f"The training process could not write ({error.strerror}).")
    if isinstance(error, MemoryError) or any(said in str(error) for said in _NO_MEMORY):
        return JobError(code=OUT_OF_MEMORY, message="The training process asked for more memory than it can have.")
    return JobError(
        code="server_error", message="The training process failed; the server's run.log of this job tells why."
    )


def _train(run: Directory) -> Result:
    from milepost.training.loop import train  # torch: seconds that a validation need not wait

    with reporting(run):
        return train(run)


def _validate(run: Directory) -> Result:
    from milepost.training.validate import validate  # tokenizers: tenths of a second that training need not wait

    return validate(run)


TASKS: dict[Task, Callable[[Directory], Result]] = {Task.VALIDATE: _validate, Task.TRAIN: _train}
