"""The worker: takes jobs from the ledger, has children run them, and carries what they write back into it.

It only reads files and asks whether processes live, some ten times a second; so it may die at any instant, and the next
one finds the children running and reads on. What it must not forget is in the ledger and the run directories.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from milepost.config import Settings
from milepost.errors import Conflict, Corrupt
from milepost.jobs import ledger, retention, runs, stories
from milepost.jobs.launchers import Child, Launcher
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.jobs import JobError, JobProgress, Status
from milepost.resources.runs import JOB, NOTICES, Outcome, Progress, Result, Task, Wanted
from milepost.store import speeds
from milepost.store.database import Database

log = logging.getLogger(__name__)

#: How often a child may die without having got any further than the time before.
MAX_DEATHS = 3
#: How long a child that should end may take before it is killed: a step, an evaluation and a save. A pause is in no
#: hurry, and what the child has learnt since its last saved state is worth waiting for.
GRACE_S, PAUSE_GRACE_S = 20.0, 300.0
#: An error that is none of ours (a full disk, a bug) is tried again after a rest, and in the end fails the job.
MAX_ERRORS, REST_S = 30, 1.0
_HEARTBEAT_S = 1.0
#: Validation takes seconds and little memory: it does not wait for the jobs that train.
_MAX_VALIDATING = 1


@dataclass(slots=True)
class Run:
    """A job that is held, and its child. `ending_at` is when the child was first expected to end."""

    job_id: str
    task: Task
    directory: Path
    tail: runs.Tail
    notices: runs.Tail
    is_adopted: bool
    is_started: bool = False
    child: Child | None = None
    announced: set[int] = field(default_factory=set)
    deaths: int = 0
    died_at_step: int = -1
    errors: int = 0
    heartbeat_at: float = 0.0
    ending_at: float | None = None


class Worker:
    """One per data folder, in a thread of its own. `owner` names its leases, so that its successor finds them."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        launcher: Launcher,
        *,
        now: Callable[[], float] = time.time,
        poll_s: float = 0.1,
        owner: str = "local",
        on_checkpoint: Callable[[FineTuningJobCheckpoint], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._launcher = launcher
        self._now = now
        self._poll_s = poll_s
        self._owner = owner
        self._on_checkpoint = on_checkpoint
        self._runs: dict[str, Run] = {}
        self._leaving: list[Run] = []  # concluded, but their children take their time to go
        self._is_stopping = False

    def work(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then have the children save and end, and return when they have."""
        self._adopt()
        while not stop.is_set():
            stop.wait(self._poll_s if self.step() else REST_S)
        self._shut_down()

    def step(self) -> bool:
        """Look at each run once, then take what waits. False if something went wrong, and was logged."""
        went_well = self._watch_all()
        try:
            self._take(Status.VALIDATING, Task.VALIDATE, _MAX_VALIDATING)
            self._take(Status.QUEUED, Task.TRAIN, self._settings.max_running_jobs)
        except Exception:
            log.exception("jobs could not be taken")
            return False
        return went_well

    # --- taking jobs

    def _adopt(self) -> None:
        """Hold again what a worker of this name held: its children may be running still, or have ended since."""
        for claim in ledger.held(self._database, self._owner):
            trained = (runs.directory(self._database.folder, claim.job_id, Task.TRAIN) / JOB).exists()
            self._hold(claim.job_id, Task.TRAIN if trained or claim.status is Status.RUNNING else Task.VALIDATE, True)

    def _take(self, status: Status, task: Task, most: int) -> None:
        while sum(run.task is task for run in self._runs.values()) < most:
            if (claim := ledger.claim(self._database, self._owner, status, self._now())) is None:
                return
            log.info("job %s: taken to %s", claim.job_id, task)
            self._hold(claim.job_id, task, False)
            self._watch(self._runs[claim.job_id])

    def _hold(self, job_id: str, task: Task, is_adopted: bool) -> None:
        directory = runs.directory(self._database.folder, job_id, task)
        tails = runs.Tail(directory), runs.Tail(directory, NOTICES)
        self._runs[job_id] = Run(job_id, task, directory, *tails, is_adopted)

    # --- one run

    def _watch_all(self) -> bool:
        looks = [self._watch(run) for run in list(self._runs.values())]  # each of them, whatever became of the others
        try:
            self._leaving = [run for run in self._leaving if run.child is not None and run.child.is_alive()]
            for run in self._leaving:
                self._end(run, None)
        except OSError:
            log.exception("children that should have ended could not be looked at")
            return False
        return all(looks)

    def _watch(self, run: Run) -> bool:
        """Advance a run, and outlive whatever goes wrong with it."""
        try:
            self._advance(run)
        except Corrupt as error:
            log.exception("job %s", run.job_id)
            return self._give_up(run, error.message)
        except Exception:
            log.exception("job %s", run.job_id)
            run.errors += 1
            if run.errors < MAX_ERRORS:
                return False
            return self._give_up(run, "The server had an error while it ran this job; its log tells which.")
        run.errors = 0
        return True

    def _advance(self, run: Run) -> None:
        if not run.is_started:
            self._start(run)
        status = ledger.status(self._database, run.job_id)
        # In this order: what a dead child has written, and what stands before a result, is all there to be carried.
        is_alive = run.child is not None and run.child.is_alive()
        result = runs.result(run.directory)
        self._carry(run)
        if status.is_final:
            self._end(run, Wanted.STOP) if is_alive else self._release(run)
        elif status in _PAUSED:
            self._pause(run, status, result, is_alive)
        elif result is not None and not (is_alive and result.outcome in _GOES_ON):
            self._conclude(run, result)
        elif is_alive and self._is_stopping:
            self._interrupt(run)
        elif is_alive and result is not None:
            self._end(run, None)
        elif is_alive:
            self._heartbeat(run)
        else:
            self._mourn(run)

    def _start(self, run: Run) -> None:
        """Find the child of a run that was adopted; start one for a run that was claimed."""
        run.child = self._launcher.find(run.directory)
        if run.child is None and not run.is_adopted:
            self._launch(run)
        run.is_started = True

    def _launch(self, run: Run) -> None:
        runs.prepare(self._database, self._settings, run.job_id, run.task)
        runs.forget_result(run.directory)
        runs.want(run.directory, Wanted.RUN)
        run.child = self._launcher.launch(run.directory, runs.secrets(self._settings, run.directory))

    def _carry(self, run: Run) -> None:
        """Events first: a checkpoint follows those of its step."""
        if told := run.tail.read():
            ledger.add_events(self._database, run.job_id, told)
        if told := run.notices.read():
            ledger.add_notices(self._database, run.job_id, told)
        new = [(step, folder) for step, folder in runs.checkpoints(run.directory) if step not in run.announced]
        for step, folder in new:
            now = self._now()
            checkpoint = ledger.announce_checkpoint(self._database, run.job_id, folder, now)
            run.announced.add(step)
            if checkpoint.created_at == int(now):  # not one that an earlier worker has published
                self._on_checkpoint(checkpoint)
        for step in retention.dropped_steps(self._database, run.job_id) if new else ():
            runs.forget_checkpoint(run.directory, step)

    def _heartbeat(self, run: Run) -> None:
        now = self._now()
        if now < run.heartbeat_at + _HEARTBEAT_S:
            return
        run.heartbeat_at = now
        progress = runs.progress(run.directory)
        left_s = None if progress is None or run.task is Task.VALIDATE else progress.eta_s
        finish = None if progress is None or left_s is None else int(progress.heartbeat + left_s)
        ledger.heartbeat(self._database, run.job_id, now, finish, _shown(progress))

    def _pause(self, run: Run, status: Status, result: Result | None, is_alive: bool) -> None:
        """Have the child write its checkpoint and leave; only then let go of the job, so that two never run at once.

        A child that left without a checkpoint of its last step is started again to write it, unless nobody waits for
        it any more: the job has been resumed.
        """
        if is_alive:
            self._heartbeat(run)
            self._end(run, Wanted.PAUSE, PAUSE_GRACE_S)
        elif result is not None and result.outcome is Outcome.FAILED:
            self._conclude(run, result)
        elif status is Status.QUEUED or (result is not None and result.outcome is not Outcome.STOPPED):
            self._release(run)
        elif self._is_stopping:
            del self._runs[run.job_id]  # the next worker finds it by its lease
        else:
            self._mourn(run)

    def _end(self, run: Run, wanted: Wanted | None, grace_s: float = GRACE_S) -> None:
        """Expect the child to end, having told it once if it does not know; kill it when it takes too long."""
        now = self._now()
        if run.ending_at is None:
            run.ending_at = now
            if wanted is not None:
                runs.want(run.directory, wanted)
        elif now > run.ending_at + grace_s and run.child is not None:
            run.child.kill()

    def _conclude(self, run: Run, result: Result) -> None:
        run.tail.require_all()
        try:
            if result.outcome is Outcome.SUCCEEDED:
                actual = runs.actual(run.directory, result)
                ledger.succeed(self._database, run.job_id, result, self._now(), actual)
            else:
                _CONCLUSIONS[result.outcome](self._database, run.job_id, result, self._now())
        except Conflict as error:  # cancelled or paused in this very moment: the next look lets go of it
            log.info("job %s: %s, but %s", run.job_id, result.outcome, error.message)
            return
        if result.speed is not None:
            speeds.put(self._settings, result.speed)
        log.info("job %s: %s", run.job_id, result.outcome)
        self._leaving.append(self._runs.pop(run.job_id))

    def _mourn(self, run: Run) -> None:
        """The child is dead and has left no result: start it again, unless it dies in the same place each time."""
        if self._is_stopping:
            self._put_back(run)
            return
        progress = runs.progress(run.directory)
        step = 0 if progress is None else progress.step
        run.deaths = 1 if step > run.died_at_step else run.deaths + 1
        run.died_at_step = max(step, run.died_at_step)
        if run.child is None:
            why = "The job's process was gone when the server started."
        elif runs.result(run.directory) is not None:
            why = "The job's process was stopped before it was paused."
        else:
            why = f"The job's process ended without a result ({run.child.how_it_ended()})."
        log.warning("job %s: %s", run.job_id, why)
        if run.deaths < MAX_DEATHS:
            ledger.count_start(self._database, run.job_id, self._now(), why)
            # As one just claimed, so that a launch that fails is tried again and not taken for another death.
            run.child, run.is_started, run.is_adopted, run.ending_at = None, False, False, None
            self._start(run)
            return
        last_words = runs.log_tail(run.directory) or "nothing"
        message = f"{why} That was {run.deaths} times in a row at step {step}. The last it printed: {last_words}"
        ledger.fail(self._database, run.job_id, JobError(code="child_killed", message=message), self._now())
        del self._runs[run.job_id]

    def _release(self, run: Run) -> None:
        ledger.release(self._database, run.job_id)
        log.info("job %s: let go", run.job_id)
        del self._runs[run.job_id]

    def _give_up(self, run: Run, message: str) -> bool:
        try:
            if run.child is not None and run.child.is_alive():
                run.child.kill()
            ledger.fail(self._database, run.job_id, JobError(code="server_error", message=message), self._now())
        except Conflict:  # it was cancelled before
            self._release(run)
        except Exception:
            log.exception("job %s could not be failed", run.job_id)
            return False
        else:
            del self._runs[run.job_id]
        return True

    # --- stopping

    def _shut_down(self) -> None:
        self._is_stopping = True
        deadline = time.monotonic() + 2 * GRACE_S
        while self._runs and time.monotonic() < deadline:
            time.sleep(self._poll_s if self._watch_all() else REST_S)

    def _interrupt(self, run: Run) -> None:
        """What trains saves and ends; a validation is short and begins anew."""
        if run.task is Task.TRAIN:
            self._end(run, Wanted.STOP)
        elif run.child is not None:
            run.child.kill()

    def _put_back(self, run: Run) -> None:
        """A child that was killed, or had no time to save: it goes on from its last saved state as well."""
        if run.task is Task.TRAIN:
            ledger.queue(self._database, run.job_id, self._now(), stories.REQUEUED)
        else:
            ledger.release(self._database, run.job_id)
        del self._runs[run.job_id]


def _shown(progress: Progress | None) -> JobProgress | None:
    """What a job shows of its child's progress; nothing of a validation, which takes seconds."""
    if progress is None or progress.phase == "validating":
        return None
    return JobProgress(
        phase=progress.phase,
        step=progress.step,
        total_steps=progress.total_steps or None,
        tokens_per_s=progress.tokens_per_s,
    )


def _validated(database: Database, job_id: str, result: Result, now: float) -> None:
    ledger.queue(database, job_id, now, stories.VALIDATED, result.forecast)


def _put_off(database: Database, job_id: str, _result: Result, now: float) -> None:
    ledger.queue(database, job_id, now, stories.REQUEUED)


def _failed(database: Database, job_id: str, result: Result, now: float) -> None:
    unsaid = JobError(code="training_failed", message="The training process failed and did not say why.")
    ledger.fail(database, job_id, result.error or unsaid, now)


#: A job that is held and in one of these was paused while its child ran. It may be back in the queue since.
_PAUSED = frozenset({Status.PAUSED, Status.QUEUED})

#: Outcomes after which a child will be started in the same directory: not before the old one has left it.
_GOES_ON = frozenset({Outcome.PAUSED, Outcome.STOPPED})

#: What becomes of a job when its child has ended with this outcome; one that succeeded is told what it did cost.
_CONCLUSIONS: dict[Outcome, Callable[[Database, str, Result, float], None]] = {
    Outcome.VALIDATED: _validated,
    Outcome.PAUSED: _put_off,
    Outcome.STOPPED: _put_off,
    Outcome.FAILED: _failed,
}
