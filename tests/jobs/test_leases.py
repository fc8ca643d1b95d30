"""Several workers, the queue they take from, and what becomes of the jobs of one that is not heard of any more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, select, text, update

from milepost.config import Settings
from milepost.errors import Exhausted, Unavailable
from milepost.jobs import leases, ledger, stories, waiting
from milepost.jobs.leases import SharedClock
from milepost.jobs.worker import Worker
from milepost.resources.forecasts import Forecast
from milepost.resources.jobs import Job, JobError, JobQueue, JobRequest, Status
from milepost.resources.runs import Outcome
from milepost.store.database import Database
from milepost.store.keys import Key
from milepost.store.schema import jobs
from tests.jobs.children import Played, Stage, validates
from tests.store.fixtures import BASE, NOW, stranger, upload

LEASE_S = 60.0
FORECAST = Forecast(epochs=1, steps=4, tokens=100, seconds=100.0)


def queued(database: Database, key: Key, at: float = NOW) -> Job:
    """A job that waits for its turn."""
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    job = ledger.create(database, key, request, BASE, at)
    ledger.queue(database, job.id, at, stories.VALIDATED, FORECAST)
    return job


def take(database: Database, owner: str = "a", now: float = NOW, most: int | None = None) -> str | None:
    claim = leases.claim(database, owner, Status.QUEUED, now, most_of_project=most)
    return claim and claim.job_id


class Pair:
    """Two workers over one store, which move only when told to, and children that the test plays."""

    def __init__(self, database: Database, settings: Settings, key: Key) -> None:
        self.database, self.key = database, key
        self.now = NOW
        self.stage = Stage(validates)
        self.first, self.second = (
            Worker(
                database,
                settings,
                self.stage,
                now=lambda: self.now,
                clock=lambda: self.now,
                owner=name,
                lease_s=LEASE_S,
            )
            for name in ("first", "second")
        )

    def train(self) -> tuple[Job, Played]:
        """A job whose child the first worker has started."""
        job = queued(self.database, self.key)
        assert self.first.step()
        return job, self.stage.children[-1]

    def job(self, job: Job) -> Job:
        return ledger.get(self.database, self.key.project_id, job.id)

    def messages(self, job: Job) -> list[str]:
        page = ledger.events_page(self.database, self.key.project_id, job.id, after=None, limit=100)
        return [event.message for event in reversed(page.data)]


@pytest.fixture
def pair(database: Database, settings: Settings, key: Key) -> Pair:
    return Pair(database, settings, key)


def lease_of(child: Played) -> float | None:
    return json.loads((child.directory / "control.json").read_text())["lease_until"]


# --- leases


@pytest.mark.parametrize("database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)
def test_workers_share_the_time_of_their_database(database: Database) -> None:
    elapsed = [100.0]
    first = SharedClock(database, 5, lambda: elapsed[0])
    with database.reading() as connection:
        began = float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")))
    told = first()
    assert began <= told < began + 60
    elapsed[0] += 4
    assert first() == told + 4
    elapsed[0] += 3600  # long enough to be asked again: the clock that is shared has not moved on so far
    assert began <= first() < began + 60


class Breaking(Database):
    """Its connection breaks while the commit of a claim is answered."""

    has_broken = False

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            yield connection
            is_taken = connection.scalar(select(jobs.c.id).where(jobs.c.lease_owner.is_not(None))) is not None
        if is_taken and not self.has_broken:
            self.has_broken = True
            raise Unavailable("The database went away in the middle of this. Try again")


@pytest.mark.parametrize("status", [Status.VALIDATING, Status.QUEUED])
def test_a_claim_that_was_made_unheard_is_found_again(
    database: Database, settings: Settings, key: Key, status: Status
) -> None:
    job = queued(database, key)
    with database.transaction() as connection:
        connection.execute(update(jobs).values(status=status))
    stage = Stage(validates)
    worker = Worker(Breaking(database._engine, database.folder), settings, stage, now=lambda: NOW, clock=lambda: NOW)
    assert not worker.step()
    for _ in range(3):
        assert worker.step()
    assert {child.directory.parent.name for child in stage.children} == {job.id}
    assert ledger.get(database, key.project_id, job.id).status is Status.RUNNING


def test_a_worker_does_not_take_what_it_holds_itself(database: Database, key: Key) -> None:
    queued(database, key)
    assert take(database, "a") is not None
    with database.transaction() as connection:  # paused and resumed, and its child has not left yet
        connection.execute(update(jobs).values(status=Status.QUEUED))
    assert take(database, "a", NOW + 86_400) is None
    assert take(database, "b", NOW + 86_400) is not None


def test_a_job_whose_worker_is_heard_of_is_left_to_it(pair: Pair) -> None:
    pair.train()
    for _ in range(3):
        pair.now += LEASE_S - 1
        assert pair.first.step()
        assert pair.second.step()
    assert len(pair.stage.children) == 1


def test_a_child_is_told_to_end_before_another_worker_may_take_its_job(pair: Pair) -> None:
    _, child = pair.train()
    assert lease_of(child) == NOW + LEASE_S / 2
    pair.now += LEASE_S / 4
    assert pair.first.step()
    assert lease_of(child) == NOW + LEASE_S / 4 + LEASE_S / 2


def test_the_job_of_a_worker_that_died_goes_on_with_another(pair: Pair) -> None:
    job, child = pair.train()
    child.take_step(1, train_loss=2.0)
    child.alive = False
    pair.now += LEASE_S - 1
    assert pair.second.step()
    assert len(pair.stage.children) == 1
    pair.now += 2
    assert pair.second.step()
    assert len(pair.stage.children) == 2
    assert pair.messages(job)[-3:] == [
        "The worker `first` was not heard of any more: the job is back in the queue",
        "Fine-tuning job resumed from its last saved state",
        "Step 1/4: training loss=2.00",
    ]


def test_a_lost_job_waits_in_the_queue_where_every_worker_is_busy(pair: Pair) -> None:
    lost, _ = pair.train()
    queued(pair.database, pair.key, NOW + 1)
    assert pair.second.step()
    pair.now += LEASE_S + 1
    assert pair.second.step()
    assert pair.job(lost).status is Status.QUEUED


def test_a_child_that_lives_on_is_not_doubled_but_read_on(pair: Pair) -> None:
    """The lock of the run directory tells: it may not have seen yet that its lease has run out."""
    job, child = pair.train()
    pair.now += LEASE_S + 1
    assert pair.second.step()
    child.take_step(1, train_loss=2.0)
    assert pair.second.step()
    assert len(pair.stage.children) == 1
    assert pair.messages(job)[-1] == "Step 1/4: training loss=2.00"
    assert lease_of(child) == pair.now + LEASE_S / 2


def test_a_worker_that_comes_back_too_late_leaves_the_job_alone(pair: Pair) -> None:
    job, child = pair.train()
    pair.now += LEASE_S + 1
    assert pair.second.step()
    child.finish(Outcome.STOPPED)
    assert pair.first.step()
    assert pair.job(job).status is Status.RUNNING
    assert [claim.job_id for claim in leases.held(pair.database, "second")] == [job.id]


def test_a_job_cancelled_after_its_worker_died_is_let_go(pair: Pair) -> None:
    job, child = pair.train()
    ledger.cancel(pair.database, pair.key.project_id, job.id, pair.now)
    child.alive = False
    pair.now += LEASE_S + 1
    assert pair.second.step()
    assert pair.second.step()
    assert leases.held(pair.database, "first") == leases.held(pair.database, "second") == ()


def test_each_job_is_claimed_once_however_many_ask(database: Database, key: Key) -> None:
    made = {queued(database, key).id for _ in range(8)}
    taken: list[str] = []

    def claim(owner: str) -> None:
        while job := take(database, owner):
            taken.append(job)

    threads = [threading.Thread(target=claim, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 8
    assert set(taken) == made


# --- the queue


def test_the_oldest_job_of_a_project_goes_first(database: Database, key: Key) -> None:
    made = [queued(database, key, NOW + n).id for n in range(3)]
    assert [take(database) for _ in range(3)] == made


def test_projects_take_turns_however_many_jobs_one_has(database: Database, key: Key) -> None:
    other = stranger(database)
    many = [queued(database, key, NOW + n).id for n in range(3)]
    few = queued(database, other, NOW + 9).id
    started = []
    for n in range(4):
        started.append(take(database, now=NOW + 10 + n))
        ledger.fail(database, started[-1], JobError(code="x", message="x"), NOW + 10 + n)
    assert started == [many[0], few, many[1], many[2]]


def test_a_project_that_runs_as_many_as_it_may_waits(database: Database, key: Key) -> None:
    first, second = queued(database, key).id, queued(database, key, NOW + 1).id
    assert take(database, most=1) == first
    assert take(database, most=1) is None
    assert take(database, most=2) == second


def test_a_place_in_the_queue_is_foreseen_from_what_goes_first(database: Database, key: Key) -> None:
    leases.show_up(database, "w", 1, NOW, NOW + LEASE_S)
    running, second, third = (queued(database, key, NOW + n).id for n in range(3))
    take(database, "w")
    leases.heartbeat(database, running, "w", NOW, int(NOW) + 50)
    reason = "1 of at most 1 jobs run on this server"
    assert waiting.places(database, [running, second, third], NOW) == {
        second: JobQueue(position=1, reason=reason, estimated_start=int(NOW) + 50),
        third: JobQueue(position=2, reason=reason, estimated_start=int(NOW) + 150),
    }


def test_a_start_that_nobody_can_foresee_is_not_told(database: Database, key: Key) -> None:
    leases.show_up(database, "w", 1, NOW, NOW + LEASE_S)
    _running, second = queued(database, key).id, queued(database, key, NOW + 1).id
    take(database, "w")
    assert waiting.places(database, [second], NOW)[second].estimated_start is None


def test_the_place_foreseen_is_that_of_a_project_whose_turn_it_is(database: Database, key: Key) -> None:
    leases.show_up(database, "w", 1, NOW, NOW + LEASE_S)
    other = stranger(database)
    _running, second = queued(database, key).id, queued(database, key, NOW + 1).id
    theirs = queued(database, other, NOW + 2).id
    take(database, "w")
    places = waiting.places(database, [second, theirs], NOW)
    assert (places[theirs].position, places[second].position) == (1, 2)


def test_without_a_worker_the_reason_says_so(database: Database, key: Key) -> None:
    job = queued(database, key).id
    place = waiting.places(database, [job], NOW)[job]
    assert place.position == 1
    assert place.reason == "No worker is there: start `milepost worker`, or `milepost serve` without --no-worker"


def test_a_job_that_must_wait_is_told_so(pair: Pair) -> None:
    pair.train()
    request = JobRequest(model="tiny", training_file=upload(pair.database, pair.key).id)
    job = ledger.create(pair.database, pair.key, request, BASE, NOW)
    assert pair.first.step()
    assert pair.first.step()
    assert pair.messages(job)[-1] == "Waiting at position 1 of the queue. 1 of at most 1 jobs run on this server"


def test_one_job_too_many_is_refused(database: Database, key: Key) -> None:
    queued(database, key)
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    with pytest.raises(Exhausted, match="reached the maximum of 1 fine-tuning jobs that wait") as error:
        ledger.create(database, key, request, BASE, NOW, most_waiting=1)
    assert error.value.code == "rate_limit_exceeded"
    take(database)
    ledger.create(database, key, request, BASE, NOW, most_waiting=1)
