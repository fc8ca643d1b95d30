import re
import threading
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import select, update

from milepost.config import Settings
from milepost.errors import Conflict, Invalid, NotFound
from milepost.jobs import leases, ledger, stories
from milepost.resources.files import Purpose
from milepost.resources.jobs import NEXT, Job, JobError, JobProgress, JobRequest, Status
from milepost.resources.methods import Method, Supervised, SupervisedHyperparameters
from milepost.resources.runs import Result, RunEvent
from milepost.store import files, models
from milepost.store.database import Database
from milepost.store.idempotency import Once
from milepost.store.keys import Key
from milepost.store.models import Tuned
from milepost.store.schema import jobs, outbox
from tests.jobs.children import write_checkpoint
from tests.store.fixtures import BASE, NOW, stranger, upload

OWNER = "worker-1"


def create(database: Database, key: Key, **request: object) -> Job:
    asked = {"model": "tiny", "training_file": upload(database, key).id, **request}
    return ledger.create(database, key, JobRequest.model_validate(asked), BASE, NOW)


def running(database: Database, key: Key) -> Job:
    job = create(database, key)
    leases.claim(database, OWNER, Status.VALIDATING, NOW)
    ledger.queue(database, job.id, NOW, stories.VALIDATED)
    leases.claim(database, OWNER, Status.QUEUED, NOW)
    return ledger.get(database, key.project_id, job.id)


def messages(database: Database, key: Key, job: Job) -> list[str]:
    """Oldest first."""
    page = ledger.events_page(database, key.project_id, job.id, after=None, limit=100)
    return [event.message for event in reversed(page.data)]


def told(*seqs: int) -> list[RunEvent]:
    return [RunEvent(child_seq=seq, at=int(NOW), message=f"event {seq}") for seq in seqs]


def published(database: Database) -> list[str]:
    with database.reading() as connection:
        return list(connection.scalars(select(outbox.c.type).order_by(outbox.c.sequence)))


# --- create


def test_a_job_begins_with_its_numbers_resolved(database: Database, key: Key) -> None:
    job = create(database, key, suffix="demo", metadata={"team": "a"})
    assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", job.id)
    assert (job.status, job.model, job.created_at) == (Status.VALIDATING, "tiny", 1_795_000_000)
    assert job.hyperparameters.model_dump() == {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
    assert job.method == {"type": "supervised", "supervised": {"hyperparameters": job.hyperparameters.model_dump()}}
    assert (job.user_provided_suffix, job.metadata, job.error) == ("demo", {"team": "a"}, None)
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.estimated_finish) == (None,) * 4
    assert (job.result_files, job.integrations, job.organization_id) == ((), (), key.organization_id)
    assert 0 <= job.seed < 2**31
    assert ledger.get(database, key.project_id, job.id) == job


def test_a_job_tells_how_it_began(database: Database, key: Key) -> None:
    job = create(database, key)
    first, second, third, fourth = messages(database, key, job)
    assert first == f"Created fine-tuning job: {job.id}"
    assert second == f"Validating training file: {job.training_file}"
    assert third.startswith("Hyperparameters for 400 examples: n_epochs=3 (auto: ")
    assert fourth.startswith("The adapter: lora_rank=16 (auto: the usual), ")


def test_a_validation_file_is_named_too(database: Database, key: Key) -> None:
    validation = upload(database, key).id
    job = create(database, key, validation_file=validation)
    assert messages(database, key, job)[1] == (
        f"Validating training file: {job.training_file} and validation file: {validation}"
    )


def test_an_alias_says_plainly_what_is_tuned(database: Database, key: Key) -> None:
    job = create(database, key, model="gpt-4o-mini")
    assert job.model == "tiny"
    assert messages(database, key, job)[2] == "`gpt-4o-mini` stands for `tiny` on this server: the job tunes `tiny`"


def test_the_absolute_learning_rate_is_told(database: Database, key: Key) -> None:
    job = create(database, key, hyperparameters={"learning_rate_multiplier": 2.0})
    told = ledger.events_page(database, key.project_id, job.id, after=None, limit=2).data[1]
    assert told.data["learning_rate"] == 0.002
    assert told.data["base_learning_rate"] == 0.001


def test_method_wins_over_the_deprecated_hyperparameters(database: Database, key: Key) -> None:
    asked = SupervisedHyperparameters(n_epochs=5)
    job = create(
        database,
        key,
        hyperparameters={"n_epochs": 9},
        method=Method(type="supervised", supervised=Supervised(hyperparameters=asked)),
    )
    assert job.hyperparameters.n_epochs == 5


def test_the_deprecated_hyperparameters_count_where_method_says_nothing(database: Database, key: Key) -> None:
    asked = SupervisedHyperparameters(batch_size=2)
    job = create(
        database,
        key,
        hyperparameters={"n_epochs": 9},
        method=Method(type="supervised", supervised=Supervised(hyperparameters=asked)),
    )
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (9, 2)


def test_a_seed_that_was_given_is_kept(database: Database, key: Key) -> None:
    assert create(database, key, seed=0).seed == 0


@pytest.mark.parametrize("param", ["training_file", "validation_file"])
def test_a_file_that_is_not_there_is_refused(database: Database, key: Key, param: str) -> None:
    with pytest.raises(Invalid, match=r"^No such File object: file-x\. Upload it with") as error:
        create(database, key, **{param: "file-x"})
    assert error.value.param == param


def test_another_projects_file_is_not_there(database: Database, key: Key) -> None:
    theirs = upload(database, stranger(database)).id
    with pytest.raises(Invalid, match=r"^No such File object"):
        create(database, key, training_file=theirs)


def test_a_file_for_something_else_is_refused(database: Database, key: Key) -> None:
    other = upload(database, key, purpose=Purpose.BATCH).id
    with pytest.raises(Invalid, match="has purpose 'batch', which cannot be trained on"):
        create(database, key, training_file=other)


def test_a_file_is_not_validated_with_itself(database: Database, key: Key) -> None:
    file = upload(database, key).id
    with pytest.raises(Invalid, match=rf"^validation_file is the training file \({file}\)") as error:
        create(database, key, training_file=file, validation_file=file)
    assert error.value.param == "validation_file"


def test_a_deleted_file_is_refused(database: Database, key: Key) -> None:
    file = upload(database, key).id
    files.delete(database, key.project_id, file, NOW)
    with pytest.raises(Invalid, match=r"^No such File object"):
        create(database, key, training_file=file)


def test_a_suffix_is_told_as_names_have_it(database: Database, key: Key) -> None:
    job = create(database, key, suffix="My Modèl 2")
    assert job.user_provided_suffix == "My Modèl 2"
    assert messages(database, key, job)[-1] == ("In the names of its models the suffix `My Modèl 2` is `my-model-2`")


@pytest.mark.parametrize("suffix", ["!!!", " ", "日本語", "-"])
def test_a_suffix_of_which_nothing_would_be_left_is_refused(database: Database, key: Key, suffix: str) -> None:
    with pytest.raises(Invalid, match="has nothing that can stand in the name of a model") as error:
        create(database, key, suffix=suffix)
    assert (error.value.param, error.value.code) == ("suffix", "invalid_value")


def test_a_method_that_is_not_trained_is_refused(database: Database, key: Key) -> None:
    with pytest.raises(Invalid, match=r"The method `reinforcement` is not trained here yet\. Methods: dpo, supervised"):
        create(database, key, method={"type": "reinforcement"})


def test_integrations_are_shown_as_openai_shows_them(database: Database, key: Key) -> None:
    job = create(database, key, integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
    shown = {"project": "p", "name": None, "entity": None, "tags": [], "run_id": job.id}
    assert job.model_dump(mode="json")["integrations"] == [{"type": "wandb", "wandb": shown}]


# --- move


def put(database: Database, job: Job, status: Status) -> None:
    with database.transaction() as connection:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(status=status))


@pytest.mark.parametrize(("found", "to"), list(product(Status, Status)))
def test_a_job_moves_along_next_and_nowhere_else(database: Database, key: Key, found: Status, to: Status) -> None:
    job = create(database, key)
    put(database, job, found)
    if to in NEXT.get(found, ()):
        with database.transaction() as connection:
            assert ledger.move(connection, job.id, to, NOW).status == to
        assert published(database)[-1] == f"fine_tuning.job.{to}"
        return
    refused = f"Job `{job.id}` is {found} and cannot become {to}"
    with pytest.raises(Conflict, match=refused), database.transaction() as connection:
        ledger.move(connection, job.id, to, NOW)
    assert ledger.get(database, key.project_id, job.id).status == found
    assert published(database) == ["fine_tuning.job.created"]


def race(*calls: object) -> list[object]:
    """Call all at once; what each returned or raised."""
    outcomes: list[object] = []
    start = threading.Barrier(len(calls))

    def run(call: object) -> None:
        start.wait()
        try:
            outcomes.append(call())
        except Conflict as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_of_a_cancel_and_a_failure_one_wins(database: Database, key: Key) -> None:
    job = running(database, key)
    error = JobError(code="c", message="m")
    outcomes = race(
        lambda: ledger.cancel(database, key.project_id, job.id, NOW), lambda: ledger.fail(database, job.id, error, NOW)
    )
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 1
    assert len([each for each in published(database) if each.endswith((".cancelled", ".failed"))]) == 1


def test_of_two_claims_one_gets_the_job(database: Database, key: Key) -> None:
    job = create(database, key)
    claims = race(*[lambda owner=owner: leases.claim(database, owner, Status.VALIDATING, NOW) for owner in "abcd"])
    assert [claim for claim in claims if claim] == [leases.Claim(job.id, Status.VALIDATING)]


# --- claims and leases


def test_jobs_are_claimed_in_the_order_they_were_created(database: Database, key: Key) -> None:
    made = [create(database, key).id for _ in range(3)]
    claimed = [leases.claim(database, OWNER, Status.VALIDATING, NOW).job_id for _ in made]
    assert claimed == made
    assert leases.claim(database, OWNER, Status.VALIDATING, NOW) is None


def test_a_lease_keeps_others_off_until_it_runs_out(database: Database, key: Key) -> None:
    create(database, key)
    leases.claim(database, "first", Status.VALIDATING, NOW)
    assert leases.claim(database, "second", Status.VALIDATING, NOW + leases.LEASE_S - 1) is None
    assert leases.claim(database, "second", Status.VALIDATING, NOW + leases.LEASE_S + 1) is not None


def test_a_heartbeat_keeps_the_lease(database: Database, key: Key) -> None:
    job = create(database, key)
    leases.claim(database, "first", Status.VALIDATING, NOW)
    leases.heartbeat(database, job.id, "first", NOW + 30, None)
    assert leases.claim(database, "second", Status.VALIDATING, NOW + leases.LEASE_S + 1) is None


def test_an_estimate_is_shown_while_the_job_runs(database: Database, key: Key) -> None:
    job = running(database, key)
    leases.heartbeat(database, job.id, OWNER, NOW, 1_795_000_500)
    assert ledger.get(database, key.project_id, job.id).estimated_finish == 1_795_000_500
    assert ledger.cancel(database, key.project_id, job.id, NOW).estimated_finish is None


PROGRESS = JobProgress(phase="training", step=3, total_steps=4, tokens_per_s=612.5)


def test_progress_is_shown_while_the_job_runs(database: Database, key: Key) -> None:
    job = running(database, key)
    assert job.progress is None
    leases.heartbeat(database, job.id, OWNER, NOW, None, PROGRESS)
    assert ledger.get(database, key.project_id, job.id).progress == PROGRESS
    leases.heartbeat(database, job.id, OWNER, NOW, None, None)
    assert ledger.get(database, key.project_id, job.id).progress is None


def test_a_job_that_no_longer_runs_shows_no_progress_while_its_child_leaves(database: Database, key: Key) -> None:
    job = running(database, key)
    leases.heartbeat(database, job.id, OWNER, NOW, None, PROGRESS)
    assert ledger.pause(database, key.project_id, job.id, NOW).progress is None
    leases.heartbeat(database, job.id, OWNER, NOW, None, PROGRESS)
    assert ledger.get(database, key.project_id, job.id).progress is None


def test_a_successor_finds_what_was_held_even_if_it_was_cancelled_since(database: Database, key: Key) -> None:
    job = running(database, key)
    ledger.cancel(database, key.project_id, job.id, NOW)
    assert leases.held(database, OWNER) == (leases.Claim(job.id, Status.CANCELLED),)
    ledger.release(database, job.id)
    assert leases.held(database, OWNER) == ()


def test_a_job_that_runs_again_says_so(database: Database, key: Key) -> None:
    job = running(database, key)
    ledger.queue(database, job.id, NOW, stories.REQUEUED)
    leases.claim(database, OWNER, Status.QUEUED, NOW)
    assert messages(database, key, job)[-4:] == [
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Training was interrupted: the job is back in the queue and goes on from its last saved state",
        "Fine-tuning job resumed from its last saved state",
    ]


def notice(number: int, message: str) -> RunEvent:
    return RunEvent(child_seq=900 + number, at=1_795_000_100, message=message)


def test_notices_are_told_once_and_leave_the_order_of_events_alone(database: Database, key: Key) -> None:
    job = running(database, key)
    ledger.add_events(database, job.id, [RunEvent(child_seq=1001, at=1, message="first")])
    ledger.add_notices(database, job.id, [notice(1, "one")])
    ledger.add_notices(database, job.id, [notice(1, "one again"), notice(2, "two"), notice(2, "two again")])
    ledger.add_events(database, job.id, [RunEvent(child_seq=1002, at=1, message="second")])
    assert messages(database, key, job)[-4:] == ["first", "one", "two", "second"]


# --- events


def test_events_are_stored_once_however_often_they_are_read(database: Database, key: Key) -> None:
    job = create(database, key)
    ledger.add_events(database, job.id, told(1, 2))
    ledger.add_events(database, job.id, told(1, 2, 3))
    ledger.add_events(database, job.id, told(3))
    assert messages(database, key, job)[4:] == ["event 1", "event 2", "event 3"]


def test_events_are_listed_newest_first_and_paged_by_position(database: Database, key: Key) -> None:
    job = create(database, key)
    ledger.add_events(database, job.id, told(1, 2, 3))
    first = ledger.events_page(database, key.project_id, job.id, after=None, limit=2)
    assert ([event.message for event in first.data], first.has_more) == (["event 3", "event 2"], True)
    rest = ledger.events_page(database, key.project_id, job.id, after=first.data[-1].id, limit=20)
    assert (rest.data[0].message, len(rest.data), rest.has_more) == ("event 1", 5, False)


def test_two_tellers_at_once_lose_nothing(database: Database, key: Key) -> None:
    job = running(database, key)
    race(
        lambda: ledger.add_events(database, job.id, told(1)),
        lambda: ledger.count_start(database, job.id, NOW, "It died."),
        lambda: ledger.count_start(database, job.id, NOW, "It died."),
    )
    assert len(messages(database, key, job)) == 4 + 2 + 3


# --- lists


def test_jobs_are_listed_newest_first(database: Database, key: Key) -> None:
    made = [create(database, key).id for _ in range(3)]
    first = ledger.page(database, key.project_id, after=None, limit=2)
    assert ([job.id for job in first.data], first.has_more) == ([made[2], made[1]], True)
    rest = ledger.page(database, key.project_id, after=made[1], limit=2)
    assert ([job.id for job in rest.data], rest.has_more) == ([made[0]], False)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"team": "a"}, ["both", "one"]),
        ({"team": "a", "run": ""}, ["both"]),
        ({"team": "b"}, []),
        ({}, ["none", "both", "one"]),
        (None, ["none", "both", "one"]),
    ],
)
def test_jobs_are_found_by_their_metadata(
    database: Database, key: Key, wanted: dict[str, str] | None, found: list[str]
) -> None:
    create(database, key, suffix="one", metadata={"team": "a"})
    create(database, key, suffix="both", metadata={"team": "a", "run": ""})
    create(database, key, suffix="none")
    page = ledger.page(database, key.project_id, after=None, limit=20, metadata=wanted)
    assert [job.user_provided_suffix for job in page.data] == found


def test_jobs_without_metadata_are_found(database: Database, key: Key) -> None:
    create(database, key, suffix="one", metadata={"team": "a"})
    create(database, key, suffix="none")
    page = ledger.page(database, key.project_id, after=None, limit=20, without_metadata=True)
    assert [job.user_provided_suffix for job in page.data] == ["none"]


def test_unknown_cursors_give_empty_pages(database: Database, key: Key) -> None:
    job = create(database, key)
    assert ledger.page(database, key.project_id, after="after", limit=20).data == ()
    assert ledger.events_page(database, key.project_id, job.id, after="after", limit=0).data == ()
    assert ledger.checkpoints_page(database, key.project_id, job.id, after="after", limit=0).data == ()


@pytest.mark.parametrize(
    "look",
    [
        ledger.get,
        lambda db, project, job: ledger.cancel(db, project, job, NOW),
        lambda db, project, job: ledger.pause(db, project, job, NOW),
        lambda db, project, job: ledger.resume(db, project, job, NOW),
        lambda db, project, job: ledger.events_page(db, project, job, after=None, limit=1),
        lambda db, project, job: ledger.checkpoints_page(db, project, job, after=None, limit=1),
    ],
)
def test_another_projects_job_does_not_exist(database: Database, key: Key, look: object) -> None:
    job = create(database, key)
    with pytest.raises(NotFound, match=f"^Could not find fine tune: {job.id}$") as error:
        look(database, stranger(database).project_id, job.id)
    assert (error.value.param, error.value.code) == ("fine_tune_id", "fine_tune_not_found")


# --- checkpoints, and the end


def announce(database: Database, job: Job, folder: Path, step: int, *, final: bool = False) -> str:
    path = folder / f"step-{step}"
    if not path.exists():
        write_checkpoint(path, step=step, final=final)
    return ledger.announce_checkpoint(database, job.id, path, NOW).fine_tuned_model_checkpoint


def test_a_checkpoint_gets_its_name_once(database: Database, key: Key, tmp_path: Path) -> None:
    job = running(database, key)
    name = announce(database, job, tmp_path, 2)
    assert announce(database, job, tmp_path, 2) == name
    assert re.fullmatch(r"ft:tiny:personal::[A-Za-z0-9]{8}:ckpt-step-2", name)
    assert messages(database, key, job)[-1] == f"Checkpoint created at step 2 with Snapshot ID: {name}"
    assert len([each for each in published(database) if each == "fine_tuning.job.checkpoint.created"]) == 1


def test_checkpoints_are_listed_highest_step_first_and_never_change(
    database: Database, key: Key, tmp_path: Path
) -> None:
    job = running(database, key)
    low, high = announce(database, job, tmp_path, 9), announce(database, job, tmp_path, 10, final=True)
    page = ledger.checkpoints_page(database, key.project_id, job.id, after=None, limit=10)
    assert [each.fine_tuned_model_checkpoint for each in page.data] == [high, low]
    assert page.data[1].model_dump()["metrics"]["train_loss"] == 0.5
    assert re.fullmatch(r"ftckpt_[A-Za-z0-9]{24}", page.data[0].id)
    assert page == ledger.checkpoints_page(database, key.project_id, job.id, after=None, limit=10)


def test_the_last_checkpoint_is_the_model(database: Database, key: Key, tmp_path: Path) -> None:
    job = running(database, key)
    ledger.add_events(
        database,
        job.id,
        [RunEvent(child_seq=1, at=1, type="metrics", message="Step 4/4", data={"step": 4, "train_loss": 0.5})],
    )
    last = announce(database, job, tmp_path, 4, final=True)
    ledger.succeed(database, job.id, Result(outcome="succeeded", trained_tokens=1234), NOW + 9)
    done = ledger.get(database, key.project_id, job.id)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == (Status.SUCCEEDED, last, 1234)
    assert (done.finished_at, done.error) == (int(NOW + 9), None)
    assert ":ckpt-step-" not in last
    assert messages(database, key, job)[-2:] == [
        f"New fine-tuned model created: {last}",
        "The job has successfully completed",
    ]
    (result,) = done.result_files
    file = files.get(database, key.project_id, result, NOW)
    assert (file.filename, file.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert files.blob_path(database, key.project_id, result, NOW).read_text().splitlines()[1] == "4,0.50000,,,"


def test_a_failure_says_why_in_the_job_and_in_an_event(database: Database, key: Key) -> None:
    job = create(database, key)
    error = JobError(code="invalid_n_examples", message="Training file has 8 example(s)", param="training_file")
    ledger.fail(database, job.id, error, NOW + 1)
    failed = ledger.get(database, key.project_id, job.id)
    assert (failed.status, failed.error, failed.finished_at) == (Status.FAILED, error, int(NOW + 1))
    event = ledger.events_page(database, key.project_id, job.id, after=None, limit=1).data[0]
    assert (event.level, event.message) == ("error", "Training file has 8 example(s)")
    assert event.data == {"error_code": "invalid_n_examples", "error_param": "training_file"}


def test_cancelling_keeps_the_checkpoints(database: Database, key: Key, tmp_path: Path) -> None:
    job = running(database, key)
    announce(database, job, tmp_path, 2)
    cancelled = ledger.cancel(database, key.project_id, job.id, NOW + 1)
    assert (cancelled.status, cancelled.finished_at) == (Status.CANCELLED, int(NOW + 1))
    assert cancelled.fine_tuned_model is None
    assert len(ledger.checkpoints_page(database, key.project_id, job.id, after=None, limit=10).data) == 1


def test_what_has_ended_is_not_cancelled(database: Database, key: Key) -> None:
    job = create(database, key)
    ledger.cancel(database, key.project_id, job.id, NOW)
    with pytest.raises(Conflict, match="is cancelled and cannot be cancelled; it has ended"):
        ledger.cancel(database, key.project_id, job.id, NOW)


# --- pause and resume


def test_a_running_job_is_paused_at_once_but_held_until_its_child_has_left(database: Database, key: Key) -> None:
    job = running(database, key)
    shown = ledger.pause(database, key.project_id, job.id, NOW)
    assert (shown.status, shown.is_paused, shown.finished_at, shown.estimated_finish) == (
        Status.PAUSED,
        True,
        None,
        None,
    )
    assert ledger.get(database, key.project_id, job.id) == shown
    assert leases.held(database, OWNER) == (leases.Claim(job.id, Status.PAUSED),)
    assert leases.claim(database, "other", Status.QUEUED, NOW) is None
    assert messages(database, key, job)[-1] == (
        "Fine-tuning job paused: it writes a checkpoint of the step it has reached, and stops"
    )


def test_a_job_resumed_before_its_child_has_left_is_not_claimed(database: Database, key: Key) -> None:
    job = running(database, key)
    ledger.pause(database, key.project_id, job.id, NOW)
    assert ledger.resume(database, key.project_id, job.id, NOW).status == Status.QUEUED
    assert leases.claim(database, "other", Status.QUEUED, NOW) is None
    ledger.release(database, job.id)
    assert leases.claim(database, "other", Status.QUEUED, NOW) == leases.Claim(job.id, Status.RUNNING)


def test_a_queued_job_is_paused_and_not_taken_until_it_is_resumed(database: Database, key: Key) -> None:
    job = create(database, key)
    leases.claim(database, OWNER, Status.VALIDATING, NOW)
    ledger.queue(database, job.id, NOW, stories.VALIDATED)
    assert ledger.pause(database, key.project_id, job.id, NOW).status == Status.PAUSED
    assert leases.claim(database, OWNER, Status.QUEUED, NOW) is None
    resumed = ledger.resume(database, key.project_id, job.id, NOW)
    assert (resumed.status, resumed.is_paused) == (Status.QUEUED, False)
    assert leases.claim(database, OWNER, Status.QUEUED, NOW) == leases.Claim(job.id, Status.RUNNING)
    assert messages(database, key, job)[-3:] == [
        "Fine-tuning job paused",
        "Fine-tuning job is no longer paused: it is back in the queue",
        "Fine-tuning job started",
    ]


def test_pause_and_resume_are_in_the_outbox(database: Database, key: Key) -> None:
    job = running(database, key)
    ledger.pause(database, key.project_id, job.id, NOW)
    ledger.resume(database, key.project_id, job.id, NOW)
    assert published(database)[-2:] == ["fine_tuning.job.paused", "fine_tuning.job.queued"]


def test_the_data_of_a_paused_job_are_kept(database: Database, key: Key) -> None:
    job = running(database, key)
    path = files.blob_path(database, key.project_id, job.training_file, NOW)
    ledger.pause(database, key.project_id, job.id, NOW)
    ledger.release(database, job.id)
    files.delete(database, key.project_id, job.training_file, NOW)
    assert path.exists()
    assert ledger.cancel(database, key.project_id, job.id, NOW).status == Status.CANCELLED
    assert not path.exists()


REFUSED = [
    (ledger.pause, Status.VALIDATING, "cannot be paused; its files are being checked, which takes seconds"),
    (ledger.pause, Status.PAUSED, "cannot be paused; it can be resumed or cancelled"),
    (ledger.pause, Status.SUCCEEDED, "cannot be paused; it has ended. Its model answers"),
    (ledger.pause, Status.FAILED, "cannot be paused; it has ended: its `error` says why"),
    (ledger.pause, Status.CANCELLED, "cannot be paused; it has ended. Create a new job"),
    (ledger.resume, Status.VALIDATING, "cannot be resumed; its files are being checked"),
    (ledger.resume, Status.QUEUED, "cannot be resumed; it starts by itself when its turn comes"),
    (ledger.resume, Status.RUNNING, "cannot be resumed; it can be paused or cancelled"),
    (ledger.resume, Status.SUCCEEDED, "cannot be resumed; it has ended"),
    (ledger.resume, Status.FAILED, "cannot be resumed; it has ended"),
    (ledger.resume, Status.CANCELLED, "cannot be resumed; it has ended"),
    (ledger.cancel, Status.SUCCEEDED, "cannot be cancelled; it has ended"),
    (ledger.cancel, Status.FAILED, "cannot be cancelled; it has ended"),
]


@pytest.mark.parametrize(("ask", "found", "words"), REFUSED)
def test_what_cannot_be_done_names_the_status_and_what_can(
    database: Database, key: Key, ask: object, found: Status, words: str
) -> None:
    job = create(database, key)
    put(database, job, found)
    told = messages(database, key, job)
    with pytest.raises(Conflict) as error:
        ask(database, key.project_id, job.id, NOW)
    assert error.value.message.startswith(f"Job `{job.id}` is {found} and {words}")
    assert ledger.get(database, key.project_id, job.id).status == found
    assert messages(database, key, job) == told


@pytest.mark.parametrize("found", [Status.VALIDATING, Status.QUEUED, Status.RUNNING, Status.PAUSED])
def test_all_that_has_not_ended_can_be_cancelled(database: Database, key: Key, found: Status) -> None:
    job = create(database, key)
    put(database, job, found)
    assert ledger.cancel(database, key.project_id, job.id, NOW).status == Status.CANCELLED


def test_what_can_be_done_instead_is_known_of_every_status() -> None:
    assert set(stories.INSTEAD) == set(Status)


def test_of_a_pause_and_an_end_one_wins(database: Database, key: Key) -> None:
    job = running(database, key)
    error = JobError(code="c", message="m")
    outcomes = race(
        lambda: ledger.pause(database, key.project_id, job.id, NOW),
        lambda: ledger.pause(database, key.project_id, job.id, NOW),
        lambda: ledger.queue(database, job.id, NOW, stories.REQUEUED),
    )
    assert len([outcome for outcome in outcomes if isinstance(outcome, Conflict)]) in {1, 2}
    assert ledger.get(database, key.project_id, job.id).status == Status.PAUSED
    ledger.fail(database, job.id, error, NOW)
    assert ledger.get(database, key.project_id, job.id).status == Status.FAILED


# --- continued training


def tuned(database: Database, key: Key, folder: Path) -> Tuned:
    """A checkpoint at step 2 of a job that goes on."""
    name = announce(database, running(database, key), folder, 2)
    return models.checkpoint_for_training(database, key.project_id, name)


def test_training_goes_on_from_a_checkpoint(database: Database, key: Key, tmp_path: Path) -> None:
    parent = tuned(database, key, tmp_path)
    request = JobRequest(model=parent.name, training_file=upload(database, key).id, suffix="more")
    job = ledger.create(database, key, request, BASE, NOW, parent=parent)
    assert job.model == parent.name
    assert messages(database, key, job)[2] == (
        f"Training goes on from `{parent.name}`, which was tuned from `tiny`: it begins with its weights, and keeps "
        "their LoRA rank, alpha and targets"
    )
    with database.reading() as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job.id)).one()
    assert (row.parent_checkpoint_id, row.model, row.base_hash) == (parent.id, "tiny", "b" * 64)
    assert announce(database, job, tmp_path / "more", 4, final=True).startswith("ft:tiny:personal:more:")


def test_a_parent_that_was_deleted_is_refused_with_the_time(
    database: Database, settings: Settings, key: Key, tmp_path: Path
) -> None:
    parent = tuned(database, key, tmp_path)
    models.delete(database, settings, key.project_id, parent.name, NOW)
    with pytest.raises(NotFound, match=r"was deleted on 2026-11-18 at \d\d:\d\d:\d\d UTC"):
        models.checkpoint_for_training(database, key.project_id, parent.name)
    request = JobRequest(model=parent.name, training_file=upload(database, key).id)
    with pytest.raises(NotFound, match="was deleted just now"):  # between the look and the creation
        ledger.create(database, key, request, BASE, NOW, parent=parent)


def test_another_projects_checkpoint_is_no_parent(database: Database, key: Key, tmp_path: Path) -> None:
    parent = tuned(database, key, tmp_path)
    assert models.checkpoint_for_training(database, stranger(database).project_id, parent.name) is None


def test_a_parent_of_another_base_is_refused(database: Database, key: Key, tmp_path: Path) -> None:
    parent = tuned(database, key, tmp_path)
    request = JobRequest(model=parent.name, training_file=upload(database, key).id)
    changed = BASE.model_copy(update={"hash": "c" * 64})
    with pytest.raises(Invalid, match="was tuned from another tiny than the server has now"):
        ledger.create(database, key, request, changed, NOW, parent=parent)


# --- the same request, sent again

ONCE = Once("the-key", "a" * 64)


def test_two_creations_with_one_key_are_one_job(database: Database, key: Key) -> None:
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    made = race(*[lambda: ledger.create(database, key, request, BASE, NOW, once=ONCE) for _ in range(6)])
    assert len({job.id for job in made}) == 1
    assert len(ledger.page(database, key.project_id, after=None, limit=10).data) == 1
    assert published(database) == ["fine_tuning.job.created"]


def test_a_request_sent_again_gives_the_job_as_it_is_by_then(database: Database, key: Key) -> None:
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    job = ledger.create(database, key, request, BASE, NOW, once=ONCE)
    cancelled = ledger.cancel(database, key.project_id, job.id, NOW)
    files.delete(database, key.project_id, job.training_file, NOW)
    assert ledger.create(database, key, request, BASE, NOW + 9, once=ONCE) == cancelled
    assert ledger.made_before(database, key.project_id, ONCE) == cancelled


def test_a_key_that_came_with_another_request_is_refused(database: Database, key: Key) -> None:
    request = JobRequest(model="tiny", training_file=upload(database, key).id)
    ledger.create(database, key, request, BASE, NOW, once=ONCE)
    with pytest.raises(Invalid, match="'the-key' was used with another request"):
        ledger.create(database, key, request, BASE, NOW, once=Once("the-key", "b" * 64))


def test_keys_of_two_projects_have_nothing_to_do_with_each_other(database: Database, key: Key) -> None:
    mine = JobRequest(model="tiny", training_file=upload(database, key).id)
    job = ledger.create(database, key, mine, BASE, NOW, once=ONCE)
    other = stranger(database)
    theirs = JobRequest(model="tiny", training_file=upload(database, other).id)
    assert ledger.create(database, other, theirs, BASE, NOW, once=ONCE).id != job.id


def test_a_request_that_was_refused_may_come_again(database: Database, key: Key) -> None:
    bad = JobRequest(model="tiny", training_file="file-x")
    with pytest.raises(Invalid, match="No such File"):
        ledger.create(database, key, bad, BASE, NOW, once=ONCE)
    assert ledger.made_before(database, key.project_id, ONCE) is None
