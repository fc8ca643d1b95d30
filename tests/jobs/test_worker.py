import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection

from milepost.config import Settings
from milepost.errors import Full
from milepost.jobs import leases, ledger, runs
from milepost.jobs.trouble import MAX_WAITS
from milepost.jobs.worker import GRACE_S, MAX_ERRORS, PAUSE_GRACE_S, Worker
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.resources.forecasts import Actual, Forecast, Speed
from milepost.resources.jobs import Job, JobError, JobProgress, JobRequest, Level, Status
from milepost.resources.runs import EVENTS, JOB, PROGRESS, RESULT, Outcome, Progress, RunEvent, RunSpec, Task
from milepost.store import room, speeds
from milepost.store.database import Database
from milepost.store.keys import Key
from tests.jobs.children import Played, Stage, validates, write_checkpoint
from tests.store.fixtures import BASE, NOW, upload


class World:
    """A worker that moves only when told to, its clock, and the children the test plays."""

    def __init__(self, database: Database, settings: Settings, key: Key, stage: Stage) -> None:
        self.database, self.settings, self.key, self.stage = database, settings, key, stage
        self.now = NOW
        self.published: list[FineTuningJobCheckpoint] = []
        self.restart()

    def restart(self) -> None:
        """What a crash leaves: the old worker is never heard of again, its successor begins."""
        self.worker = Worker(
            self.database,
            self.settings,
            self.stage,
            now=lambda: self.now,
            clock=lambda: self.now,
            poll_s=0.001,
            on_checkpoint=self.published.append,
        )
        self.worker._adopt()

    def create(self, **request: object) -> Job:
        training_file = upload(self.database, self.key).id
        asked = JobRequest.model_validate({"model": "tiny", "training_file": training_file, **request})
        return ledger.create(self.database, self.key, asked, BASE, NOW)

    def train(self) -> tuple[Job, Played]:
        """A job whose child has begun to train."""
        job = self.create()
        self.look(3)
        return job, self.stage.children[-1]

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.worker.step()

    def job(self, job: Job) -> Job:
        return ledger.get(self.database, self.key.project_id, job.id)

    def messages(self, job: Job) -> list[str]:
        page = ledger.events_page(self.database, self.key.project_id, job.id, after=None, limit=100)
        return [event.message for event in reversed(page.data)]

    def checkpoints(self, job: Job) -> list[str]:
        page = ledger.checkpoints_page(self.database, self.key.project_id, job.id, after=None, limit=100)
        return [checkpoint.fine_tuned_model_checkpoint for checkpoint in page.data]

    def stop(self) -> threading.Thread:
        """Ask the worker to stop, as Ctrl-C does."""
        stopped = threading.Event()
        stopped.set()
        thread = threading.Thread(target=self.worker.work, args=(stopped,))
        thread.start()
        return thread


@pytest.fixture
def world(database: Database, settings: Settings, key: Key) -> World:
    return World(database, settings, key, Stage(validates))


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to make it true."""
    waiting = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiting.wait(0.005)
    pytest.fail("waited ten seconds in vain")


# --- the way of a job


def test_a_run_from_beginning_to_end_with_nobody_watching(world: World) -> None:
    job = world.create(suffix="demo")
    world.look(3)
    child = world.stage.children[-1]
    child.take_step(1, train_loss=2.0)
    child.save(2)
    world.look()
    child.take_step(4, train_loss=1.0)
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=1200)
    world.look()
    model, early = world.checkpoints(job)
    assert world.messages(job)[4:] == [
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/4: training loss=2.00",
        f"Checkpoint created at step 2 with Snapshot ID: {early}",
        "Step 4/4: training loss=1.00",
        f"New fine-tuned model created: {model}",
        "The job has successfully completed",
    ]
    done = world.job(job)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == (Status.SUCCEEDED, model, 1200)


def test_a_checkpoint_is_there_while_the_job_still_runs(world: World) -> None:
    job, child = world.train()
    child.save(2)
    world.look()
    assert len(world.checkpoints(job)) == 1
    assert world.job(job).status == Status.RUNNING


def test_bad_files_fail_the_job_in_the_childs_words(world: World) -> None:
    error = JobError(code="invalid_n_examples", message="Training file has 8 example(s)", param="training_file")
    world.stage = Stage(lambda child: child.finish(Outcome.FAILED, error=error))
    world.restart()
    job = world.create()
    world.look(2)
    assert (world.job(job).status, world.job(job).error) == (Status.FAILED, error)


def test_jobs_beyond_the_limit_wait_while_others_are_validated(world: World) -> None:
    first, _ = world.train()
    second = world.create()
    world.look(3)
    assert (world.job(first).status, world.job(second).status) == (Status.RUNNING, Status.QUEUED)


def test_the_estimate_follows_the_childs(world: World) -> None:
    job, child = world.train()
    child.show_progress(1, eta_s=30.0)
    world.now += 2
    world.look()
    assert world.job(job).estimated_finish == 1_795_000_130


def test_the_progress_is_the_childs(world: World) -> None:
    job, child = world.train()
    child.show_progress(1, tokens_per_s=612.5)
    world.now += 2
    world.look()
    assert world.job(job).progress == JobProgress(phase="training", step=1, total_steps=4, tokens_per_s=612.5)


WANDB = [{"type": "wandb", "wandb": {"project": "p"}}]


def test_what_a_childs_loggers_say_is_told(world: World) -> None:
    job, child = world.train()
    notice = RunEvent(child_seq=902, at=1_795_000_100, level=Level.WARN, message="TensorBoard: the disk is full")
    (child.directory / "notices.jsonl").write_text(notice.model_dump_json() + "\n")
    world.look()
    world.restart()  # its successor reads the file again
    world.look()
    assert world.messages(job).count("TensorBoard: the disk is full") == 1


def test_the_key_of_wandb_reaches_children_that_report_there_and_no_file(world: World) -> None:
    world.settings = world.settings.model_copy(update={"wandb_api_key": SecretStr("the-key")})
    world.restart()
    job = world.create(integrations=WANDB)
    world.look(3)
    validating, training = world.stage.children
    assert (validating.secrets, training.secrets) == ({}, {"NETRC": "/dev/null", "WANDB_API_KEY": "the-key"})
    spec = RunSpec.model_validate_json((training.directory / JOB).read_bytes())
    assert [each.wandb.run_id for each in spec.integrations] == [job.id]
    files = [file for file in training.directory.rglob("*") if file.is_file()]
    assert [file for file in files if b"the-key" in file.read_bytes()] == []


def test_other_children_get_no_key_and_without_one_nobody_does(world: World) -> None:
    _, child = world.train()
    assert child.secrets == {}
    world.create(integrations=WANDB)
    child.alive = False
    child.finish(Outcome.FAILED)
    world.look(3)
    assert world.stage.children[-1].secrets == {"NETRC": "/dev/null"}


def test_a_job_that_trains_knows_the_folder_of_tensorboard(world: World, tmp_path: Path) -> None:
    world.settings = world.settings.model_copy(update={"tensorboard_dir": tmp_path / "tb"})
    world.restart()
    _, child = world.train()
    assert RunSpec.model_validate_json((child.directory / JOB).read_bytes()).tensorboard == str(tmp_path / "tb")


def test_a_job_has_ended_when_its_result_is_there_however_slowly_its_child_leaves(world: World) -> None:
    job, child = world.train()
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=7)
    child.alive = True
    world.look()
    assert world.job(job).status == Status.SUCCEEDED
    world.now += GRACE_S + 1
    world.look(2)
    assert not child.alive


# --- cancel


def test_a_cancelled_jobs_child_is_told_to_stop_and_what_it_saved_is_kept(world: World) -> None:
    job, child = world.train()
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    world.look()
    assert child.wanted() == "stop"
    child.save(2)
    child.finish(Outcome.STOPPED)
    world.look()
    assert (world.job(job).status, len(world.checkpoints(job))) == (Status.CANCELLED, 1)
    assert leases.held(world.database, "local") == ()


def test_a_child_that_does_not_stop_is_killed(world: World) -> None:
    job, child = world.train()
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    world.look()
    world.now += GRACE_S + 1
    world.look()
    assert not child.alive


def test_a_cancel_in_the_moment_of_success_wins(world: World) -> None:
    """The child has finished, but the ledger heard of the cancel first."""
    job, child = world.train()
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=1)
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    world.look(2)
    assert (world.job(job).status, world.job(job).fine_tuned_model) == (Status.CANCELLED, None)
    assert len(world.checkpoints(job)) == 1


# --- pause and resume


def paused(world: World) -> tuple[Job, Played]:
    """A job paused at step 2, whose child has heard of it."""
    job, child = world.train()
    child.take_step(2, train_loss=2.0)
    world.look()
    ledger.pause(world.database, world.key.project_id, job.id, world.now)
    world.look()
    assert child.wanted() == "pause"
    return job, child


def write_and_leave(child: Played) -> None:
    child.save(2)
    child.finish(Outcome.PAUSED)


def resume(world: World, job: Job) -> None:
    ledger.resume(world.database, world.key.project_id, job.id, world.now)


def test_a_paused_child_writes_a_checkpoint_and_leaves_and_another_goes_on(world: World) -> None:
    job, child = paused(world)
    write_and_leave(child)
    world.look()
    (snapshot,) = world.checkpoints(job)
    assert world.job(job).status == Status.PAUSED
    assert leases.held(world.database, "local") == ()
    world.look(3)
    assert len(world.stage.children) == 2  # one validated, one trained
    resume(world, job)
    world.look()
    again = world.stage.children[-1]
    assert (again.directory, again.wanted(), again.alive) == (child.directory, "run", True)
    assert not (again.directory / RESULT).exists()
    assert world.messages(job)[6:] == [
        "Step 2/4: training loss=2.00",
        "Fine-tuning job paused: it writes a checkpoint of the step it has reached, and stops",
        f"Checkpoint created at step 2 with Snapshot ID: {snapshot}",
        "Fine-tuning job is no longer paused: it is back in the queue",
        "Fine-tuning job resumed from its last saved state",
    ]


def test_a_job_resumed_while_its_child_still_leaves_waits_for_it(world: World) -> None:
    job, child = paused(world)
    resume(world, job)
    world.look(3)
    assert (world.job(job).status, child.wanted(), len(world.stage.children)) == (Status.QUEUED, "pause", 2)
    write_and_leave(child)
    world.look(2)
    assert (world.job(job).status, len(world.checkpoints(job))) == (Status.RUNNING, 1)
    assert world.stage.children[-1] is not child


def test_a_pause_and_a_resume_that_nobody_saw_pause_all_the_same(world: World) -> None:
    job, child = world.train()
    ledger.pause(world.database, world.key.project_id, job.id, world.now)
    resume(world, job)
    world.look()
    assert (world.job(job).status, child.wanted()) == (Status.QUEUED, "pause")
    write_and_leave(child)
    world.look(2)
    assert world.job(job).status == Status.RUNNING


def test_a_job_paused_again_while_its_child_leaves_stays_paused(world: World) -> None:
    job, child = paused(world)
    resume(world, job)
    ledger.pause(world.database, world.key.project_id, job.id, world.now)
    write_and_leave(child)
    world.look(3)
    assert (world.job(job).status, len(world.stage.children)) == (Status.PAUSED, 2)


def test_a_pausing_child_keeps_its_lease_however_long_it_takes(world: World) -> None:
    job, child = paused(world)
    resume(world, job)
    for _ in range(5):
        world.now += leases.LEASE_S - 1
        world.look()
        assert leases.claim(world.database, "other", Status.QUEUED, world.now) is None
    assert child.alive


def test_a_child_that_does_not_pause_is_killed_in_the_end_and_another_writes_the_checkpoint(world: World) -> None:
    _, child = paused(world)
    world.now += PAUSE_GRACE_S + 1
    world.look()
    assert not child.alive
    world.look(2)
    again = world.stage.children[-1]
    assert (again is not child, again.wanted()) == (True, "pause")


def test_a_child_killed_while_it_pauses_is_started_again_to_write_the_checkpoint(world: World) -> None:
    job, child = paused(world)
    child.kill()
    world.look(2)
    again = world.stage.children[-1]
    assert (again.directory, again.wanted()) == (child.directory, "pause")
    assert world.messages(job)[-1] == (
        "The job's process ended without a result (killed by SIGKILL). "
        "It is started again to write the checkpoint of its last saved state"
    )
    write_and_leave(again)
    world.look()
    assert (world.job(job).status, len(world.checkpoints(job))) == (Status.PAUSED, 1)
    assert leases.held(world.database, "local") == ()


def test_a_child_killed_after_its_job_was_resumed_is_not_waited_for(world: World) -> None:
    job, child = paused(world)
    resume(world, job)
    child.kill()
    world.look(2)
    assert world.job(job).status == Status.RUNNING
    assert world.stage.children[-1].wanted() == "run"


def test_a_child_that_dies_each_time_it_should_pause_fails_its_job(world: World) -> None:
    job, _ = paused(world)
    for _ in range(3):
        world.stage.children[-1].kill()
        world.look()
    assert (world.job(job).status, world.job(job).error.code) == (Status.FAILED, "child_killed")


def test_a_child_that_someone_stopped_before_it_paused_is_started_again(world: World) -> None:
    job, child = paused(world)
    child.finish(Outcome.STOPPED)
    world.look(2)
    assert world.stage.children[-1].wanted() == "pause"
    assert "The job's process was stopped before it was paused." in world.messages(job)[-1]


def test_a_job_that_failed_while_it_paused_has_failed(world: World) -> None:
    job, child = paused(world)
    child.finish(Outcome.FAILED, error=JobError(code="training_diverged", message="The loss is not finite"))
    world.look()
    assert (world.job(job).status, world.job(job).error.code) == (Status.FAILED, "training_diverged")


def test_a_job_paused_in_the_moment_of_success_succeeds_when_it_is_resumed(world: World) -> None:
    job, child = paused(world)
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=7)
    world.look(2)
    assert (world.job(job).status, world.job(job).fine_tuned_model) == (Status.PAUSED, None)
    resume(world, job)
    world.look()
    world.stage.children[-1].finish(Outcome.SUCCEEDED, trained_tokens=7)
    world.look()
    assert world.job(job).status == Status.SUCCEEDED


def test_a_pause_that_the_worker_had_not_seen_when_it_read_the_result_stands(world: World) -> None:
    """Put back in the queue is only what was running: the pause came between the look and the move."""
    job, child = world.train()
    ledger.pause(world.database, world.key.project_id, job.id, world.now)
    run = world.worker._runs[job.id]
    child.finish(Outcome.STOPPED)
    world.worker._conclude(run, runs.result(run.directory))
    assert world.job(job).status == Status.PAUSED


def test_a_pausing_job_can_be_cancelled(world: World) -> None:
    job, child = paused(world)
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    write_and_leave(child)
    world.look()
    assert (world.job(job).status, len(world.checkpoints(job))) == (Status.CANCELLED, 1)
    assert leases.held(world.database, "local") == ()


def test_a_pause_while_nobody_looked_reaches_the_child(world: World) -> None:
    """The server is killed between the row and the child."""
    job, child = world.train()
    ledger.pause(world.database, world.key.project_id, job.id, world.now)
    world.restart()
    world.look()
    assert (child.alive, child.wanted()) == (True, "pause")


def test_a_child_that_paused_while_nobody_looked_is_let_go_of(world: World) -> None:
    job, child = paused(world)
    write_and_leave(child)
    world.restart()
    world.look()
    assert (world.job(job).status, len(world.checkpoints(job))) == (Status.PAUSED, 1)
    assert leases.held(world.database, "local") == ()


def test_a_child_that_died_with_the_server_before_it_paused_is_started_again(world: World) -> None:
    _, child = paused(world)
    child.kill()
    world.restart()
    world.look(2)
    again = world.stage.children[-1]
    assert (again is not child, again.wanted()) == (True, "pause")


def test_a_paused_job_is_left_alone_by_a_server_that_starts(world: World) -> None:
    job, child = paused(world)
    write_and_leave(child)
    world.look()
    world.restart()
    world.look(3)
    assert (world.job(job).status, len(world.stage.children)) == (Status.PAUSED, 2)


def test_stopping_does_not_disturb_a_pause(world: World) -> None:
    job, child = paused(world)
    stopping = world.stop()
    write_and_leave(child)
    stopping.join(10)
    assert (child.wanted(), world.job(job).status, len(world.checkpoints(job))) == ("pause", Status.PAUSED, 1)


def test_a_child_killed_as_the_server_stopped_writes_its_checkpoint_at_the_next_start(world: World) -> None:
    job, child = paused(world)
    child.kill()
    world.stop().join(10)
    assert (world.job(job).status, len(world.stage.children)) == (Status.PAUSED, 2)
    world.restart()
    world.look(2)
    assert world.stage.children[-1].wanted() == "pause"


def test_a_pausing_child_counts_among_those_that_train(world: World) -> None:
    _, child = paused(world)
    other = world.create()
    world.look(3)
    assert world.job(other).status == Status.QUEUED
    write_and_leave(child)
    world.look(2)
    assert world.job(other).status == Status.RUNNING


def test_a_paused_job_shows_no_estimate(world: World) -> None:
    job, child = world.train()
    child.show_progress(1, eta_s=30.0)
    world.now += 2
    world.look()
    assert world.job(job).estimated_finish == 1_795_000_130
    paused_job = ledger.pause(world.database, world.key.project_id, job.id, world.now)
    assert paused_job.estimated_finish is None
    world.now += 2
    world.look()
    assert world.job(job).estimated_finish is None


# --- deaths


def test_a_killed_child_is_started_again_and_nothing_is_told_twice(world: World) -> None:
    job, child = world.train()
    child.take_step(1, train_loss=2.0)
    child.save(2)
    child.kill()
    world.look()
    again = world.stage.children[-1]
    assert again is not child
    assert again.directory == child.directory
    again.take_step(3, train_loss=1.5)
    world.look()
    assert world.messages(job)[6:] == [
        "Step 1/4: training loss=2.00",
        f"Checkpoint created at step 2 with Snapshot ID: {world.checkpoints(job)[0]}",
        "The job's process ended without a result (killed by SIGKILL). It is started again and goes on from its last saved state",
        "Step 3/4: training loss=1.50",
    ]
    assert world.job(job).status == Status.RUNNING


def test_a_child_that_dies_in_one_place_each_time_fails_its_job(world: World) -> None:
    job, _ = world.train()
    for _ in range(3):
        (world.stage.children[-1].directory / "run.log").write_text("MemoryError\n")
        world.stage.children[-1].kill()
        world.look()
    failed = world.job(job)
    assert (failed.status, failed.error.code) == (Status.FAILED, "child_killed")
    assert failed.error.message == (
        "The job's process ended without a result (killed by SIGKILL). That was 3 times in a row at step 0. "
        "The last it printed: MemoryError"
    )


def test_a_child_that_gets_on_may_die_more_often(world: World) -> None:
    job, _ = world.train()
    for step in range(1, 5):
        world.stage.children[-1].show_progress(step)
        world.stage.children[-1].kill()
        world.look()
    assert world.job(job).status == Status.RUNNING


# --- the worker dies, or stops


def test_after_a_crash_the_child_is_found_and_read_on(world: World) -> None:
    job, child = world.train()
    child.take_step(1, train_loss=2.0)
    child.save(2)
    world.look()
    (before,) = world.checkpoints(job)
    world.restart()
    child.take_step(2, train_loss=1.0)
    world.look()
    assert len(world.stage.children) == 2  # one validated, one trains
    assert world.checkpoints(job) == [before]
    assert world.messages(job)[-3:] == [
        "Step 1/4: training loss=2.00",
        f"Checkpoint created at step 2 with Snapshot ID: {before}",
        "Step 2/4: training loss=1.00",
    ]


def test_a_child_that_ended_while_nobody_looked_has_its_result_read(world: World) -> None:
    job, child = world.train()
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=7)
    world.restart()
    world.look()
    assert (world.job(job).status, world.job(job).trained_tokens) == (Status.SUCCEEDED, 7)


def test_a_child_that_died_with_the_server_is_started_again(world: World) -> None:
    job, child = world.train()
    child.kill()
    world.restart()
    world.look()
    assert world.stage.children[-1].alive
    assert "The job's process was gone when the server started." in world.messages(job)[-1]


def test_a_child_that_died_with_the_server_does_not_count_among_its_deaths(world: World) -> None:
    job, child = world.train()
    child.kill()
    world.restart()
    world.look()
    for _ in range(2):
        world.stage.children[-1].kill()
        world.look()
    assert world.job(job).status == Status.RUNNING
    world.stage.children[-1].kill()
    world.look()
    assert world.job(job).error.code == "child_killed"


def test_a_child_that_a_dying_server_had_just_started_is_found_when_another_gives_way_to_it(world: World) -> None:
    """It had not locked its directory yet when the next server looked, which started one more."""
    job, child = world.train()
    child.alive = False
    world.restart()
    world.look()
    another = world.stage.children[-1]
    assert another is not child
    child.alive, another.alive = True, False  # which found the directory locked, and ended
    told = world.messages(job)
    world.look()
    assert world.stage.children[-1] is another
    assert world.messages(job) == told
    child.take_step(1, train_loss=2.0)
    world.look()
    assert world.messages(job)[-1] == "Step 1/4: training loss=2.00"


def test_a_claim_whose_run_was_never_made_is_run(world: World) -> None:
    """The worker died between the claim and the launch."""
    job = world.create()
    leases.claim(world.database, "local", Status.VALIDATING, world.now)
    world.restart()
    world.look(3)
    assert world.job(job).status == Status.RUNNING


def test_a_cancel_while_nobody_looked_reaches_the_child(world: World) -> None:
    job, child = world.train()
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    world.restart()
    world.look()
    assert child.wanted() == "stop"


def test_stopping_asks_children_to_save_and_puts_their_jobs_back(world: World) -> None:
    job, child = world.train()
    stopping = world.stop()
    until(lambda: child.wanted() == "stop")
    child.finish(Outcome.STOPPED)
    stopping.join(10)
    assert world.job(job).status == Status.QUEUED


def test_after_a_stop_the_job_goes_on_in_its_directory(world: World) -> None:
    job, child = world.train()
    stopping = world.stop()
    until(lambda: child.wanted() == "stop")
    child.finish(Outcome.STOPPED)
    stopping.join(10)
    world.restart()
    world.look()
    again = world.stage.children[-1]
    assert (again.directory, again.wanted()) == (child.directory, "run")
    assert not (again.directory / RESULT).exists()
    assert world.messages(job)[-1] == "Fine-tuning job resumed from its last saved state"


def test_stopping_in_the_middle_of_a_validation_begins_it_anew(world: World) -> None:
    world.stage = Stage()
    world.restart()
    job = world.create()
    world.look()
    world.stop().join(10)
    assert world.job(job).status == Status.VALIDATING
    world.restart()
    world.look()
    assert [child.alive for child in world.stage.children] == [False, True]


def test_a_child_that_was_stopped_has_left_before_another_is_started(world: World) -> None:
    job, child = world.train()
    child.finish(Outcome.STOPPED)
    child.alive = True
    world.look(3)
    assert world.job(job).status == Status.RUNNING
    child.alive = False
    world.look(2)
    assert world.stage.children[-1].alive


# --- what should not happen


def test_weights_that_are_not_those_of_the_manifest_fail_the_job(world: World) -> None:
    job, child = world.train()
    child.save(2)
    (child.directory / "checkpoints" / "step-2" / "adapter_model.safetensors").write_bytes(b"other")
    world.look()
    assert (world.job(job).status, world.job(job).error.code) == (Status.FAILED, "server_error")
    assert "but its manifest says" in world.job(job).error.message
    assert not child.alive


def test_a_cancelled_jobs_bad_weights_keep_nobody_busy(world: World) -> None:
    job, child = world.train()
    ledger.cancel(world.database, world.key.project_id, job.id, world.now)
    child.save(2)
    (child.directory / "checkpoints" / "step-2" / "adapter_model.safetensors").write_bytes(b"other")
    world.look()
    assert (world.job(job).status, child.alive) == (Status.CANCELLED, False)
    assert leases.held(world.database, "local") == ()


def test_an_unknown_error_is_tried_again_then_fails_the_job_without_its_text(world: World) -> None:
    job, child = world.train()
    (child.directory / EVENTS).mkdir()
    assert not any(world.worker.step() for _ in range(MAX_ERRORS - 1))
    assert world.job(job).status == Status.RUNNING
    world.worker.step()
    assert world.job(job).error == JobError(
        code="server_error", message="The server had an error while it ran this job; its log tells which."
    )


def test_one_jobs_trouble_is_not_anothers(world: World) -> None:
    world.settings = world.settings.model_copy(update={"max_running_jobs": 2})
    world.restart()
    (_, broken), (other, child) = world.train(), world.train()
    (broken.directory / EVENTS).mkdir()
    child.take_step(1, train_loss=2.0)
    assert not world.worker.step()
    assert world.messages(other)[-1] == "Step 1/4: training loss=2.00"


def test_what_a_power_cut_garbled_is_told_anew_by_the_next_child(world: World) -> None:
    job, child = world.train()
    child.take_step(1, train_loss=2.0)
    with (child.directory / EVENTS).open("ab") as events:
        events.write(b"\0" * 100 + b"\n")
    child.take_step(2, train_loss=1.0)
    (child.directory / PROGRESS).write_bytes(b"\0" * 100)
    (child.directory / RESULT).write_bytes(b"")
    child.alive = False
    world.look()
    assert (world.job(job).status, world.stage.children[-1].alive) == (Status.RUNNING, True)
    told = (child.directory / EVENTS).read_bytes()
    (child.directory / EVENTS).write_bytes(told.replace(b"\0" * 100 + b"\n", b""))  # as the child does, when it starts
    world.look()
    assert [text for text in world.messages(job) if text.startswith("Step")] == [
        "Step 1/4: training loss=2.00",
        "Step 2/4: training loss=1.00",
    ]


def test_a_run_that_ended_with_events_that_cannot_be_read_has_not_succeeded(world: World) -> None:
    job, child = world.train()
    (child.directory / EVENTS).write_text("not an event\n")
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=7)
    world.look()
    assert world.job(job).status == Status.FAILED
    assert "events.jsonl cannot be read from byte 0 on" in world.job(job).error.message


def test_a_success_without_a_last_checkpoint_is_none(world: World) -> None:
    job, child = world.train()
    child.finish(Outcome.SUCCEEDED, trained_tokens=7)
    world.look()
    assert (world.job(job).status, world.job(job).error.code) == (Status.FAILED, "server_error")


def test_a_job_runs_in_a_directory_of_its_own_for_each_task(world: World) -> None:
    job, _ = world.train()
    for task in Task:
        assert (runs.directory(world.database.folder, job.id, task) / JOB).exists()


def test_each_checkpoint_is_told_of_once_as_it_is_published(world: World) -> None:
    job, child = world.train()
    child.save(2)
    world.look(2)
    world.now += 1
    world.restart()
    world.look()
    [name] = world.checkpoints(job)
    assert [checkpoint.fine_tuned_model_checkpoint for checkpoint in world.published] == [name]


def test_the_forecast_of_the_validation_is_the_jobs_and_what_it_did_cost_stands_beside_it(world: World) -> None:
    def foresees(child: Played) -> None:
        if child.directory.name == "validate":
            child.finish(Outcome.VALIDATED, training_tokens=1000, forecast=FORECAST, speed=SPEED)

    world.stage._script = foresees
    job, child = world.train()
    assert world.job(job).forecast == FORECAST
    assert speeds.get(world.settings) == SPEED
    progress = Progress(heartbeat=NOW, pid=1, phase="done", step=4, spent_s=12.5, peak_memory_bytes=2_000_000_000)
    (child.directory / PROGRESS).write_text(progress.model_dump_json())
    child.save(4, final=True)
    child.finish(Outcome.SUCCEEDED, trained_tokens=1000)
    world.look()
    assert world.job(job).forecast == FORECAST.model_copy(
        update={"actual": Actual(seconds=12.5, tokens=1000, tokens_per_second=80.0, memory_bytes=2_000_000_000)}
    )


def test_the_speed_that_was_measured_is_given_to_the_next_child(world: World) -> None:
    speeds.put(world.settings, SPEED)
    _, child = world.train()
    assert RunSpec.model_validate_json((child.directory / JOB).read_bytes()).speed == SPEED


FORECAST = Forecast(epochs=1, steps=4, tokens=1000, seconds=10.0, tokens_per_second=100.0, memory_bytes=10**9)
SPEED = Speed(machine="here", dtype="bfloat16", gflops={1: 200.0, 2: 400.0})


# --- silence, room and memory


def test_a_silent_child_is_killed_and_goes_on_and_in_the_end_fails_with_its_last_words(world: World) -> None:
    job, child = world.train()
    child.show_progress(1)
    for _ in range(3):
        world.now += 2
        world.look()
        world.now += 601
        world.look(2)
    assert [child.alive for child in world.stage.children[-3:]] == [False, False, False]
    restarts = [told for told in world.messages(job) if "started again" in told]
    told = "The job's process showed no sign of life for 600 seconds and was killed. It is started again and goes on"
    assert restarts == [f"{told} from its last saved state"] * 2
    failed = world.job(job)
    assert (failed.status, failed.error.code if failed.error else None) == (Status.FAILED, "child_killed")


def test_a_child_that_shows_life_is_left_alone_however_the_time_of_day_jumps(world: World) -> None:
    job, child = world.train()
    for beat in range(5):
        (child.directory / PROGRESS).write_text(
            Progress(heartbeat=1_795_000_000 - 3600 * beat, pid=1, phase="training", step=1).model_dump_json()
        )
        world.now += 400
        world.look()
    assert (child.alive, world.job(job).status) == (True, Status.RUNNING)


FULL = JobError(code="disk_full", message="The training process could not write (No space left on device).")


def test_a_job_out_of_room_is_paused_with_the_reason_and_goes_on_when_there_is_room(world: World) -> None:
    job, child = world.train()
    world.settings = world.settings.model_copy(update={"min_free_bytes": 2**62})
    world.restart()
    child.finish(Outcome.FAILED, error=FULL)
    world.look(3)
    assert world.job(job).status is Status.PAUSED
    assert world.messages(job)[-1] == (
        "Fine-tuning job paused for want of room on the server's disk: The training process could not write (No space "
        "left on device). It goes on by itself when there is room again"
    )
    world.settings = world.settings.model_copy(update={"min_free_bytes": 0})
    world.restart()
    world.look()
    assert world.messages(job)[-2:] == [
        "There is room on the server's disk again: the job is back in the queue",
        "Fine-tuning job resumed from its last saved state",
    ]


class Crowded(Database):
    """On a full disk, whose last room the children of a stage take as long as one of them lives."""

    def __init__(self, database: Database, stage: Stage) -> None:
        super().__init__(database._engine, database.folder)
        self._stage = stage

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        if (self.folder / room.RESERVE).exists() or any(child.alive for child in self._stage.children):
            raise Full("The server's disk has no room for this")
        with super().transaction() as connection:
            yield connection


def test_on_a_full_disk_what_trains_is_ended_before_the_reserve_is_given_up(world: World) -> None:
    job, child = world.train()
    world.settings = world.settings.model_copy(update={"min_free_bytes": 2**62})
    world.database = Crowded(world.database, world.stage)
    world.restart()
    child.take_step(1, train_loss=2.0)
    assert not world.worker.step()
    assert not child.alive
    world.look(2)
    assert world.job(job).status is Status.PAUSED
    assert world.messages(job)[-1].endswith(" MB are free. It goes on by itself when there is room again")


def test_without_room_nothing_is_started(world: World) -> None:
    world.settings = world.settings.model_copy(update={"min_free_bytes": 2**62})
    world.restart()
    job = world.create()
    world.look(3)
    assert (world.job(job).status, world.stage.children) == (Status.VALIDATING, [])


def test_a_job_that_its_user_paused_is_not_resumed_for_having_room(world: World) -> None:
    job, child = world.train()
    ledger.pause(world.database, world.key.project_id, job.id, NOW)
    child.finish(Outcome.FAILED, error=FULL)
    world.look()
    world.now += 10
    world.look(2)
    assert world.job(job).status is Status.PAUSED


def test_a_job_that_runs_out_of_room_again_and_again_waits_for_its_user(world: World) -> None:
    world.settings = world.settings.model_copy(update={"min_free_bytes": 0})
    world.restart()
    job, _ = world.train()
    for _ in range(MAX_WAITS + 1):
        world.stage.children[-1].finish(Outcome.FAILED, error=FULL)
        world.look()
        world.now += 10
        world.look(2)
    assert world.job(job).status is Status.PAUSED
    assert world.messages(job)[-1].endswith("resume it when there is room for good")


def test_a_job_out_of_memory_says_what_was_asked_and_what_would_fit(world: World) -> None:
    foreseen = FORECAST.model_copy(update={"memory_limit_bytes": 500_000_000, "largest_batch_size": 2})
    world.stage._script = lambda child: (
        child.finish(Outcome.VALIDATED, forecast=foreseen) if child.directory.name == "validate" else None
    )
    job = world.create(hyperparameters={"batch_size": 8})
    world.look(3)
    why = "The training process asked for more memory than it can have."
    world.stage.children[-1].finish(Outcome.FAILED, error=JobError(code="out_of_memory", message=why))
    world.look()
    assert world.job(job).error == JobError(
        code="out_of_memory",
        message="The training process asked for more memory than it can have. It was asked to train with batch_size 8 "
        "and max_length 512, for which 1.0 GB were foreseen; a training process may have 0.5 GB here. The largest "
        "batch_size that is foreseen to fit is 2",
    )


def test_a_torn_progress_and_events_behind_zeros_keep_no_job_from_going_on(world: World) -> None:
    job, child = world.train()
    child.tell("one")
    world.look()
    child.alive = False
    (child.directory / PROGRESS).write_bytes(b"")
    with (child.directory / EVENTS).open("ab") as log:
        log.write(b"\0" * 50 + b"\n")
    world.look(2)
    assert world.job(job).status is Status.RUNNING
    assert world.stage.children[-1] is not child


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # it is broken as a file
def test_events_that_could_not_be_stored_are_read_again(world: World) -> None:
    """A database that is full, or away, for a moment."""
    job, child = world.train()
    child.tell("one")
    with sqlite3.connect(world.database.folder / "milepost.db") as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert not world.worker.step()
    with sqlite3.connect(world.database.folder / "milepost.db") as other:
        other.execute("DROP TRIGGER full")
    child.tell("two")
    world.look()
    assert world.messages(job)[-2:] == ["one", "two"]


@pytest.mark.parametrize("ending", ["succeeds", "fails", "is cancelled"])
def test_what_validation_has_tokenised_goes_with_the_end_of_a_job_and_not_with_a_pause(
    world: World, ending: str
) -> None:
    job, child = world.train()
    kept = child.directory.parent / "examples"
    kept.mkdir()
    if ending == "is cancelled":
        ledger.cancel(world.database, world.key.project_id, job.id, world.now)
        child.alive = False
    else:
        ledger.pause(world.database, world.key.project_id, job.id, world.now)
        child.finish(Outcome.PAUSED)
        world.look()
        assert kept.exists()
        ledger.resume(world.database, world.key.project_id, job.id, world.now)
        world.look()
        write_checkpoint(child.directory / "checkpoints" / "step-4", step=4, final=True)
        world.stage.children[-1].finish(Outcome.SUCCEEDED if ending == "succeeds" else Outcome.FAILED)
    world.look()
    assert world.job(job).status.is_final
    assert not kept.exists()


def test_a_process_is_made_ready_while_a_job_is_validated_and_let_go_at_the_end(world: World) -> None:
    assert not world.stage.is_warm
    world.create()
    world.look()
    assert world.stage.is_warm
    world.stage.children[-1].alive = False
    world.stop().join(10)
    assert not world.stage.is_warm
