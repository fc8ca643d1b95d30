import openai
import pytest

from milepost.jobs import ledger
from milepost.resources.runs import RunEvent
from tests.api.conftest import BASE, NOW
from tests.api.fakes import checkpoint_folder


@pytest.fixture
async def job(client, training_file):
    return await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)


async def test_a_job_starts_out_validating_with_its_numbers_resolved(client, training_file):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, suffix="demo", seed=7)
    assert job.id.startswith("ftjob-")
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "validating_files", BASE, 7)
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error) == (None, None, None, None)
    assert (job.result_files, job.created_at) == ([], int(NOW))
    assert isinstance(job.hyperparameters.n_epochs, int)
    assert job.method.type == "supervised"
    assert job.method.supervised.hyperparameters.n_epochs == job.hyperparameters.n_epochs
    assert await client.fine_tuning.jobs.retrieve(job.id) == job


async def test_every_field_the_sdk_knows_may_be_sent(client, training_file):
    job = await client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        validation_file=None,
        suffix=None,
        seed=None,
        hyperparameters={"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"},
        integrations=[{"type": "wandb", "wandb": {"project": "p", "entity": "e", "name": "n", "tags": ["t"]}}],
        metadata={"team": "a"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"batch_size": 2, "learning_rate_multiplier": 0.5, "n_epochs": 3}},
            "dpo": {"hyperparameters": {"batch_size": "auto", "beta": "auto", "n_epochs": "auto"}},
            "reinforcement": {
                "grader": {"input": "i", "name": "n", "operation": "eq", "reference": "r", "type": "string_check"},
                "hyperparameters": {"compute_multiplier": "auto", "reasoning_effort": "default"},
            },
        },
    )
    numbers = job.hyperparameters
    assert (numbers.batch_size, numbers.learning_rate_multiplier, numbers.n_epochs) == (2, 0.5, 3)
    assert job.metadata == {"team": "a"}


async def test_deprecated_top_level_hyperparameters_work(client, training_file):
    job = await client.fine_tuning.jobs.create(
        model=BASE, training_file=training_file, hyperparameters={"n_epochs": 2, "batch_size": 4}
    )
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, 4)


async def test_whole_numbers_stay_whole_on_the_wire(http, training_file):
    answer = await http.post(
        "/fine_tuning/jobs",
        json={"model": BASE, "training_file": training_file, "hyperparameters": {"n_epochs": 3, "batch_size": 2}},
    )
    assert '"n_epochs":3,' in answer.text
    assert '"batch_size":2,' in answer.text


async def test_an_id_of_openais_stands_for_the_default_base(client, training_file):
    job = await client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=training_file)
    assert job.model == BASE


async def test_a_method_that_is_not_trained_yet_is_refused_by_name(client, training_file):
    with pytest.raises(openai.BadRequestError, match="`reinforcement` is not trained here yet"):
        await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, method={"type": "reinforcement"})


async def test_a_job_of_preferences_shows_its_beta(client, training_file):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, method={"type": "dpo"})
    assert job.method.type == "dpo"
    assert job.method.supervised is None
    assert job.method.dpo.hyperparameters.beta == 0.1
    assert isinstance(job.method.dpo.hyperparameters.n_epochs, int)


async def test_extra_hyperparameters_ride_along_with_openais(client, training_file):
    extras = {"lora_rank": 8, "lora_targets": ["q_proj", "v_proj"], "learning_rate": 5e-4}
    job = await client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        method={"type": "supervised", "supervised": {"hyperparameters": extras}},
    )
    again = await client.fine_tuning.jobs.retrieve(job.id)
    assert again.hyperparameters.model_extra == extras
    assert again.method.supervised.hyperparameters.learning_rate_multiplier == 0.5
    plain = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert set(plain.hyperparameters.model_dump()) == {"n_epochs", "batch_size", "learning_rate_multiplier"}


async def test_jobs_walk_newest_first(client, training_file):
    made = [(await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)).id for _ in range(45)]
    assert [job.id async for job in client.fine_tuning.jobs.list()] == made[::-1]
    first = await client.fine_tuning.jobs.list()
    assert (len(first.data), first.has_more) == (20, True)


async def test_jobs_are_found_by_metadata(client, training_file):
    jobs = client.fine_tuning.jobs
    plain = await jobs.create(model=BASE, training_file=training_file)
    red = await jobs.create(model=BASE, training_file=training_file, metadata={"colour": "red", "size": ""})
    blue = await jobs.create(model=BASE, training_file=training_file, metadata={"colour": "blue"})
    assert [job.id for job in (await jobs.list(metadata={"colour": "red"})).data] == [red.id]
    assert [job.id for job in (await jobs.list(metadata={"colour": "red", "size": ""})).data] == [red.id]
    assert [job.id for job in (await jobs.list(metadata={"colour": "green"})).data] == []
    assert [job.id for job in (await jobs.list(metadata={})).data] == [blue.id, red.id, plain.id]
    assert [job.id for job in (await jobs.list(extra_query={"metadata": "null"})).data] == [plain.id]


async def test_as_the_sdks_own_tests_call_it(client):
    page = await client.fine_tuning.jobs.list(after="after", limit=0, metadata={"foo": "string"})
    assert (page.data, page.has_more) == ([], False)


async def test_a_cancelled_job_is_cancelled_at_once_and_once_only(client, job):
    cancelled = await client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, cancelled.finished_at) == ("cancelled", int(NOW))
    with pytest.raises(openai.BadRequestError, match=f"Job `{job.id}` is cancelled and cannot become cancelled"):
        await client.fine_tuning.jobs.cancel(job.id)


async def test_the_first_events_are_told_newest_first(client, job, training_file):
    messages = [event.message async for event in client.fine_tuning.jobs.list_events(job.id)]
    assert messages[-2:] == [f"Validating training file: {training_file}", f"Created fine-tuning job: {job.id}"]


async def test_events_walk_in_their_order_though_they_share_a_second(client, job, database):
    told = [
        RunEvent(child_seq=seq, at=5, type="metrics", message=f"Step {seq}/60: training loss=1.00", data={"step": seq})
        for seq in range(1, 61)
    ]
    ledger.add_events(database, job.id, told)
    walked = [event async for event in client.fine_tuning.jobs.list_events(job.id)]
    assert [event.data["step"] for event in walked if event.type == "metrics"] == list(range(60, 0, -1))
    assert len({event.id for event in walked}) == len(walked)


async def test_checkpoints_walk_highest_step_first_ten_a_page(client, job, database, tmp_path):
    for step in range(1, 46):
        folder = checkpoint_folder(tmp_path / "run", step, final=step == 45)
        ledger.announce_checkpoint(database, job.id, folder, NOW)
    first = await client.fine_tuning.jobs.checkpoints.list(job.id)
    assert [checkpoint.step_number for checkpoint in first.data] == list(range(45, 35, -1))
    walked = [checkpoint async for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert [checkpoint.step_number for checkpoint in walked] == list(range(45, 0, -1))
    newest = walked[0]
    assert (newest.object, newest.fine_tuning_job_id) == ("fine_tuning.job.checkpoint", job.id)
    assert newest.metrics.step == 45
    assert walked[1].fine_tuned_model_checkpoint.endswith(":ckpt-step-44")


async def test_metrics_that_were_not_measured_are_null_on_the_wire(http, job, database, tmp_path):
    ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW)
    page = (await http.get(f"/fine_tuning/jobs/{job.id}/checkpoints")).json()
    assert page["data"][0]["metrics"]["full_valid_loss"] is None
    assert page["first_id"] == page["last_id"] == page["data"][0]["id"]


UNKNOWN = "Could not find fine tune: ftjob-nobody"


@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: jobs.retrieve("ftjob-nobody"),
        lambda jobs: jobs.cancel("ftjob-nobody"),
        lambda jobs: jobs.list_events("ftjob-nobody"),
        lambda jobs: jobs.checkpoints.list("ftjob-nobody"),
    ],
    ids=["retrieve", "cancel", "list_events", "checkpoints"],
)
async def test_an_unknown_job_is_not_found_everywhere(client, call):
    with pytest.raises(openai.NotFoundError, match=UNKNOWN) as caught:
        await call(client.fine_tuning.jobs)
    assert (caught.value.param, caught.value.code) == ("fine_tune_id", "fine_tune_not_found")
