"""The worker: takes jobs from the ledger, has children run them, and carries what they write back into it.

It only reads files and asks whether processes live, some ten times a second; so it may die at any instant, and the next
one finds the children running and reads on. What it must not forget is in the ledger and the run directories.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from milepost import logs
from milepost.config import Settings
from milepost.errors import Conflict, Corrupt, Unavailable
from milepost.jobs import conclusions, leases, ledger, retention, runs, stories, trouble, waiting
from milepost.jobs.held import GOES_ON, PAUSED, Run, shown, stop_writing
from milepost.jobs.launchers import Launcher
from milepost.jobs.leases import Claim
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.jobs import JobError, Status
from milepost.resources.runs import DISK_FULL, JOB, LOG, NOTICES, OUT_OF_MEMORY, Outcome, Result, Task, Wanted
from milepost.store import room, speeds
from milepost.store.database import Database

log = logging.getLogger(__name__)

#: How often a child may die without having got any further than the time before.
MAX_DEATHS = 3
#: How long a child that should end may take before it is killed: a step, an evaluation and a save. A pause is in no
#: hurry, and what the child has learnt since its last saved state is worth waiting for.
GRACE_S, PAUSE_GRACE_S = 20.0, 300.0
#: An error that is none of ours (a bug) is tried again after a rest, and in the end fails the job. A full disk is
#: waited for.
MAX_ERRORS, REST_S = 30, 1.0
_HEARTBEAT_S = 1.0
#: A child whose lease is not renewed saves and ends when this much of it is over; the rest is for a step, an
#: evaluation and a save.
_CHILDS_SHARE = 0.5
#: How often a lease is renewed while it lasts.
_RENEWALS = 8
#: How often the disk is looked at.
ROOM_EVERY_S = 5.0
#: Validation takes seconds and little memory: it does not wait for the jobs that train.
_MAX_VALIDATING = 1


class Worker:
    """Works on the jobs of a data folder, alone or, with `lease_s`, beside others.

    `owner` names its leases, so that its successor finds them. A child of a worker that has others beside it ends by
    itself when its lease is not renewed, before another worker may take the job; that of one alone goes on.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        launcher: Launcher,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = 0.1,
        owner: str = "local",
        lease_s: float | None = None,
        on_checkpoint: Callable[[FineTuningJobCheckpoint], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._launcher = launcher
        self._now = now
        self._clock = clock  # for durations: the time of day may jump
        self._poll_s = poll_s
        self._owner = owner
        self._has_others = lease_s is not None
        self._lease_s = leases.LEASE_S if lease_s is None else lease_s
        self._seen_until = 0.0
        self._on_checkpoint = on_checkpoint
        self._runs: dict[str, Run] = {}
        self._leaving: list[Run] = []  # concluded, but their children take their time to go
        self._has_adopted = self._is_stopping = False
        self._has_room = True
        self._room_at = -ROOM_EVERY_S
        self.looked_at = time.monotonic()

    @property
    def runs(self) -> int:
        """Jobs whose processes it looks after."""
        return len(self._runs) + len(self._leaving)

    def work(self, stop: threading.Event) -> None:
        """Work until `stop` is set; then have the children save and end, and return when they have."""
        while not stop.is_set():
            stop.wait(self._poll_s if self.step() else REST_S)
        self._shut_down()

    def step(self) -> bool:
        """Look at each run once, then take what waits. False if something went wrong, and was logged."""
        went_well = self._watch_all()
        self.looked_at = time.monotonic()
        try:
            self._adopt()
            self._show_up()
            self._take_over()
            self._look_for_room()
            if not self._has_room:
                return went_well
            self._take(Status.VALIDATING, Task.VALIDATE, _MAX_VALIDATING)
            self._take(Status.QUEUED, Task.TRAIN, self._settings.max_running_jobs)
        except Unavailable as error:
            log.warning("jobs could not be taken: %s", error.message)
            self._has_adopted = False
            return False
        except Exception as error:
            log.exception("jobs could not be taken")
            if room.is_lacking(error):
                stop_writing(self._database.folder, self._runs.values(), self._settings.min_free_bytes)
            return False
        return went_well

    def _look_for_room(self) -> None:
        """Below so many free bytes nothing is started; when they are there again, what waited for them goes on."""
        if self._clock() < self._room_at + ROOM_EVERY_S:
            return
        self._room_at = self._clock()
        free = room.free_bytes(self._database.folder)
        had_room, self._has_room = self._has_room, free >= self._settings.min_free_bytes
        if had_room != self._has_room:
            log.warning("%d bytes free: jobs are%s started", free, "" if self._has_room else " not")
        if self._has_room:
            room.set_aside(self._database.folder)
            trouble.go_on(self._database, self._now())

    # --- taking jobs

    def _adopt(self) -> None:
        """Hold again what a worker of this name held, whose children may run still; and what it took itself without
        hearing of it, because the database went away.
        """
        for claim in () if self._has_adopted else leases.held(self._database, self._owner):
            if claim.job_id not in self._runs:
                self._hold_again(claim)
        self._has_adopted = True

    def _take_over(self) -> None:
        """See to the jobs of workers that are not heard of any more."""
        if not self._has_others:
            return
        if lost := leases.queue_lost(self._database, self._owner, self._now()):
            log.warning("%d jobs of workers that are not heard of any more are back in the queue", lost)
        while claim := leases.take_over(self._database, self._owner, self._now(), lease_s=self._lease_s):
            log.warning("job %s: taken over", claim.job_id)
            self._hold_again(claim)

    def _hold_again(self, claim: Claim) -> None:
        trained = (runs.directory(self._database.folder, claim.job_id, Task.TRAIN) / JOB).exists()
        self._hold(claim.job_id, Task.TRAIN if trained or claim.status is Status.RUNNING else Task.VALIDATE, True)

    def _show_up(self) -> None:
        now = self._now()
        if now + self._lease_s / 2 > self._seen_until:
            self._seen_until = now + self._lease_s
            leases.show_up(self._database, self._owner, self._settings.max_running_jobs, now, self._seen_until)

    def _free(self, task: Task, most: int) -> bool:
        return sum(run.task is task for run in self._runs.values()) < most

    def _take(self, status: Status, task: Task, most: int) -> None:
        of_project = self._settings.max_running_per_project if status is Status.QUEUED else None
        while self._free(task, most):
            claim = leases.claim(
                self._database, self._owner, status, self._now(), lease_s=self._lease_s, most_of_project=of_project
            )
            if claim is None:
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
        with logs.about(job_id=run.job_id):
            return self._look(run)

    def _look(self, run: Run) -> bool:
        try:
            self._advance(run)
        except Corrupt as error:
            log.exception("job %s", run.job_id)
            return self._give_up(run, error.message)
        except Unavailable as error:  # no fault of the job's, however long it takes
            log.warning("job %s: %s", run.job_id, error.message)
            return False
        except Exception as error:
            if room.is_lacking(error):
                log.warning("job %s: %s", run.job_id, error)
                stop_writing(self._database.folder, self._runs.values(), self._settings.min_free_bytes)
                return False
            log.exception("job %s", run.job_id)
            run.errors += 1
            if run.errors < MAX_ERRORS:
                return False
            return self._give_up(run, "The server had an error while it ran this job; its log tells which.")
        run.errors = 0
        return True

    def _advance(self, run: Run) -> None:
        status = leases.status_of(self._database, run.job_id, self._owner)
        if status is None:
            self._lose(run)
            return
        if not run.is_started:
            self._start(run)
        # In this order: what a dead child has written, and what stands before a result, is all there to be carried.
        is_alive = run.child is not None and run.child.is_alive()
        result = runs.result(run.directory)
        self._carry(run)
        if status.is_final and is_alive:
            self._end(run, Wanted.STOP)
        elif status.is_final:
            runs.forget_examples(run.directory)
            self._release(run)
        elif status in PAUSED:
            self._pause(run, status, result, is_alive)
        elif result is not None and not (is_alive and result.outcome in GOES_ON):
            self._conclude(run, result)
        elif is_alive and self._is_stopping:
            self._interrupt(run)
        elif is_alive and result is not None:
            self._end(run, None)
        elif is_alive:
            self._heartbeat(run)
        else:
            self._mourn(run)

    def _lose(self, run: Run) -> None:
        """Another worker has the job, and with it the child, if it lives: it is not ours to end."""
        log.warning("job %s: its lease has run out, and another worker holds it", run.job_id)
        del self._runs[run.job_id]

    def _start(self, run: Run) -> None:
        """Find the child of a run that was adopted; start one for a run that was claimed."""
        run.child = self._launcher.find(run.directory)
        if run.child is None and not run.is_adopted:
            self._launch(run)
        run.is_started = True

    def _launch(self, run: Run) -> None:
        runs.prepare(self._database, self._settings, run.job_id, run.task)
        runs.forget_result(run.directory)
        self._renew(run)
        run.oom_kills, run.pulse, run.is_silent = trouble.oom_kills(), trouble.Pulse(), False
        run.child = self._launcher.launch(run.directory, runs.secrets(self._settings, run.directory))
        if run.task is Task.VALIDATE:
            self._launcher.warm()  # what is good will be trained
        log.info("job %s: its process prints to %s", run.job_id, run.directory / LOG)

    def _carry(self, run: Run) -> None:
        """Events first: a checkpoint follows those of its step."""
        if told := run.tail.read():
            ledger.add_events(self._database, run.job_id, told)
            run.tail.accept()
        if told := run.notices.read():
            ledger.add_notices(self._database, run.job_id, told)
            run.notices.accept()
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
        clock, now = self._clock(), self._now()
        if clock < run.heartbeat_at + _HEARTBEAT_S:
            return
        run.heartbeat_at = clock
        progress = runs.progress(run.directory)
        if run.pulse.silent_s(progress, clock) > self._settings.silence_s and run.child is not None:
            run.is_silent = True
            run.child.kill()
        left_s = None if progress is None or run.task is Task.VALIDATE else progress.eta_s
        finish = None if progress is None or left_s is None else int(progress.heartbeat + left_s)
        is_ours = leases.heartbeat(
            self._database, run.job_id, self._owner, now, finish, shown(progress), lease_s=self._lease_s
        )
        is_due = self._has_others and clock >= run.renewed_at + self._lease_s / _RENEWALS
        if is_ours and is_due and run.ending_at is None:
            self._renew(run)

    def _renew(self, run: Run) -> None:
        run.renewed_at, lease_s = self._clock(), self._lease_s * _CHILDS_SHARE
        lease = (self._now() + lease_s, lease_s) if self._has_others else ()
        runs.want(run.directory, Wanted.RUN, *lease)

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
        now = self._clock()
        if run.ending_at is None:
            run.ending_at = now
            if wanted is not None:
                runs.want(run.directory, wanted)
        elif now > run.ending_at + grace_s and run.child is not None:
            run.child.kill()

    def _conclude(self, run: Run, result: Result) -> None:
        if result.error is not None and result.error.code == DISK_FULL:
            self._await_room(run, result.error.message)
            return
        run.tail.require_all()
        if result.error is not None and result.error.code == OUT_OF_MEMORY:
            error = trouble.out_of_memory(self._database, run.job_id, result.error.message)
            result = result.model_copy(update={"error": error})
        try:
            conclusions.conclude(self._database, run.job_id, run.directory, result, self._now(), holder=self._owner)
        except Conflict as error:  # cancelled or paused in this very moment: the next look lets go of it
            log.info("job %s: %s, but %s", run.job_id, result.outcome, error.message)
            return
        if result.speed is not None:
            speeds.put(self._settings, result.speed)
        log.info("job %s: %s", run.job_id, result.outcome)
        self._leaving.append(self._runs.pop(run.job_id))
        if result.outcome is Outcome.VALIDATED:
            most = self._settings.max_running_per_project
            waiting.announce(self._database, run.job_id, self._now(), most_of_project=most)

    def _mourn(self, run: Run) -> None:
        """The child is dead and has left no result: start it again, unless it dies in the same place each time."""
        if self._is_stopping:
            self._put_back(run)
            return
        if (free := room.free_bytes(self._database.folder)) < self._settings.min_free_bytes:
            self._await_room(run, f"The job's process ended without a result, and {free / 1e6:,.0f} MB are free.")
            return
        if (found := self._launcher.find(run.directory)) is not None:  # of a server that died as it was starting it
            run.child = found
            return
        step = run.note_death(runs.progress(run.directory))
        is_memory = run.child is not None and not run.is_silent and trouble.oom_kills() > run.oom_kills
        why = run.why_it_died(self._settings.silence_s, is_memory=is_memory)
        log.warning("job %s: %s", run.job_id, why)
        if run.deaths < MAX_DEATHS:
            ledger.count_start(self._database, run.job_id, self._now(), why, holder=self._owner)
            # As one just claimed, so that a launch that fails is tried again and not taken for another death.
            run.child, run.is_started, run.is_adopted, run.ending_at = None, False, False, None
            self._start(run)
            return
        last_words = runs.log_tail(run.directory) or "nothing"
        message = f"{why} That was {run.deaths} times in a row at step {step}. The last it printed: {last_words}"
        killed = JobError(code="child_killed", message=message)
        error = trouble.out_of_memory(self._database, run.job_id, message) if is_memory else killed
        ledger.fail(self._database, run.job_id, error, self._now(), holder=self._owner)
        del self._runs[run.job_id]

    def _await_room(self, run: Run, why: str) -> None:
        try:
            trouble.await_room(self._database, run.job_id, self._now(), why, holder=self._owner)
        except Conflict as error:  # cancelled in this very moment, or another worker's by now
            log.info("job %s: no room, but %s", run.job_id, error.message)
            return
        self._leaving.append(self._runs.pop(run.job_id))

    def _release(self, run: Run) -> None:
        ledger.release(self._database, run.job_id, holder=self._owner)
        log.info("job %s: let go", run.job_id)
        del self._runs[run.job_id]

    def _give_up(self, run: Run, message: str) -> bool:
        try:
            if run.child is not None and run.child.is_alive():
                run.child.kill()
            error = JobError(code="server_error", message=message)
            ledger.fail(self._database, run.job_id, error, self._now(), holder=self._owner)
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
        self._launcher.let_go()
        deadline = time.monotonic() + 2 * GRACE_S
        while self._runs and time.monotonic() < deadline:
            time.sleep(self._poll_s if self._watch_all() else REST_S)
        try:
            leases.leave(self._database, self._owner)
        except Unavailable as error:  # it is forgotten when it is not heard of any more
            log.warning("%s", error.message)

    def _interrupt(self, run: Run) -> None:
        """What trains saves and ends; a validation is short and begins anew."""
        if run.task is Task.TRAIN:
            self._end(run, Wanted.STOP)
        elif run.child is not None:
            run.child.kill()

    def _put_back(self, run: Run) -> None:
        """A child that was killed, or had no time to save: it goes on from its last saved state as well."""
        if run.task is Task.TRAIN:
            ledger.queue(self._database, run.job_id, self._now(), stories.REQUEUED, holder=self._owner)
        else:
            ledger.release(self._database, run.job_id, holder=self._owner)
        del self._runs[run.job_id]
