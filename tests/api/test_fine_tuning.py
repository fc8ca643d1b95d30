import asyncio
import json

import httpx2
import openai
import pytest
from sqlalchemy import select, update

from milepost.api.app import create_app
from milepost.jobs import leases, ledger, stories
from milepost.resources.jobs import Status
from milepost.resources.runs import RunEvent
from milepost.store.schema import jobs
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import checkpoint_folder
from tests.api.world import served_document


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


@pytest.mark.parametrize("method", [{}, {"type": "supervised"}, {"supervised": None, "dpo": None}])
async def test_a_method_without_settings_is_as_it_comes(client, training_file, method):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, method=method)
    assert job.method.type == "supervised"


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


async def test_what_auto_became_is_told_of_each_number(client, training_file):
    hyperparameters = {"max_length": "auto", "lora_rank": 4}
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, hyperparameters=hyperparameters)
    further, first = (await client.fine_tuning.jobs.list_events(job.id, limit=2)).data
    assert (further.type, further.level) == ("message", "info")
    assert "lora_rank=4 (as asked), lora_alpha=8 (auto: twice the rank)" in further.message
    assert "max_length=2048 (auto: the 2,048 tokens that the base reads)" in further.message
    adapter = {
        "lora_rank": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "lora_targets": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    }
    training = {
        "lr_scheduler": "linear",
        "warmup_ratio": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": 2048,
        "on_divergence": "fail",
    }
    unused = dict.fromkeys(("early_stopping_patience", "checkpoint_every", "keep_checkpoints", "spike_threshold"))
    assert further.data == adapter | training | unused
    rates = {"learning_rate": 1e-3, "base_learning_rate": 1e-3, "learning_rate_multiplier": 1.0}
    assert first.data == further.data | rates | {"n_epochs": 8, "batch_size": 1}


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
    refused = f"Job `{job.id}` is cancelled and cannot be cancelled; it has ended. Create a new job"
    with pytest.raises(openai.BadRequestError, match=refused):
        await client.fine_tuning.jobs.cancel(job.id)


# --- pause and resume: `paused` is not in the SDK's enum, so the strict client needs the switch


@pytest.fixture
async def lenient(app):
    """The SDK as everybody uses it."""
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http, max_retries=0) as client:
        yield client


@pytest.fixture
async def strict_where_paused_is_queued(settings, database, engine):
    app = create_app(settings.model_copy(update={"paused_status": "queued"}), database, engine, now=lambda: NOW)
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(
        api_key=KEY, base_url="http://test/v1", http_client=http, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
async def queued(job, database):
    leases.claim(database, "local", Status.VALIDATING, NOW)
    ledger.queue(database, job.id, NOW, stories.VALIDATED)
    return job


async def test_a_queued_job_is_paused_and_resumed(lenient, queued):
    jobs = lenient.fine_tuning.jobs
    paused = await jobs.pause(queued.id)
    assert (paused.status, paused.is_paused, paused.estimated_finish) == ("paused", True, None)
    assert await jobs.retrieve(queued.id) == paused
    assert [job.status for job in (await jobs.list()).data] == ["paused"]
    resumed = await jobs.resume(queued.id)
    assert (resumed.status, resumed.is_paused) == ("queued", False)
    told = [event.message for event in (await jobs.list_events(queued.id, limit=3)).data]
    waits = "Waiting at position 1 of the queue. No worker is there: start `milepost worker`, or `milepost serve`"
    assert told == [
        f"{waits} without --no-worker",
        "Fine-tuning job is no longer paused: it is back in the queue",
        "Fine-tuning job paused",
    ]


async def test_a_strict_client_cannot_read_paused(client, queued):
    with pytest.raises(openai.APIResponseValidationError):
        await client.fine_tuning.jobs.pause(queued.id)


async def test_a_strict_client_reads_queued_if_the_operator_says_so(strict_where_paused_is_queued, queued):
    jobs = strict_where_paused_is_queued.fine_tuning.jobs
    paused = await jobs.pause(queued.id)
    assert (paused.status, paused.is_paused) == ("queued", True)
    assert [job.status for job in (await jobs.list()).data] == ["queued"]
    assert (await jobs.retrieve(queued.id)).is_paused
    with pytest.raises(openai.BadRequestError, match=r"is paused and cannot be paused; it can be resumed or cancelled"):
        await jobs.pause(queued.id)
    cancelled = await jobs.cancel(queued.id)
    assert (cancelled.status, cancelled.is_paused) == ("cancelled", False)


async def test_a_job_whose_files_are_checked_cannot_be_paused_yet(client, job):
    with pytest.raises(openai.BadRequestError) as caught:
        await client.fine_tuning.jobs.pause(job.id)
    assert caught.value.message.endswith(
        f"Job `{job.id}` is validating_files and cannot be paused; its files are being checked, which takes seconds: "
        "it can be cancelled now, and paused once it is queued"
    )
    assert caught.value.param == "status"


async def test_what_is_not_paused_cannot_be_resumed(client, queued):
    with pytest.raises(openai.BadRequestError, match=r"is queued and cannot be resumed; it starts by itself"):
        await client.fine_tuning.jobs.resume(queued.id)


# --- continued training


@pytest.fixture
def tuned(database, job, tmp_path):
    """A checkpoint's name."""
    return ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint


async def test_training_goes_on_from_a_checkpoint(client, training_file, tuned, database, tmp_path):
    job = await client.fine_tuning.jobs.create(model=tuned, training_file=training_file, suffix="more")
    assert job.model == tuned
    assert await client.fine_tuning.jobs.retrieve(job.id) == job
    events = await client.fine_tuning.jobs.list_events(job.id)
    assert any(event.message.startswith(f"Training goes on from `{tuned}`") for event in events.data)
    last = ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path / "more", 9, final=True), NOW)
    assert last.fine_tuned_model_checkpoint.startswith(f"ft:{BASE}:personal:more:")
    again = await client.fine_tuning.jobs.create(model=last.fine_tuned_model_checkpoint, training_file=training_file)
    assert again.model == last.fine_tuned_model_checkpoint


@pytest.fixture
def shaped(database, job, tmp_path):
    """The name of a checkpoint that says what shape it has, as training writes it."""
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 5.0, "target_modules": ["q_proj", "v_proj"]}
    folder = checkpoint_folder(tmp_path, 3, config=json.dumps(config))
    return ledger.announce_checkpoint(database, job.id, folder, NOW).fine_tuned_model_checkpoint


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"lora_rank": 8}, "whose lora_rank is 3: it cannot become 8. Leave lora_rank out"),
        ({"lora_alpha": 32}, "whose lora_alpha is 5: it cannot become 32. Leave lora_alpha out"),
        ({"lora_targets": ["q_proj"]}, "whose lora_targets is q_proj+v_proj: it cannot become q_proj. Leave lora_t"),
    ],
)
async def test_an_adapter_that_training_goes_on_from_keeps_its_shape(client, training_file, shaped, asked, words):
    jobs = client.fine_tuning.jobs
    with pytest.raises(openai.BadRequestError) as caught:
        await jobs.create(model=shaped, training_file=training_file, hyperparameters=asked)
    assert f"Training goes on from `{shaped}`, {words}" in caught.value.message
    assert (caught.value.param, caught.value.code) == (*asked, "invalid_value")
    assert len((await jobs.list()).data) == 1


async def test_the_shape_that_is_there_may_be_asked_for_in_any_order(client, training_file, shaped):
    asked = {"lora_rank": 3, "lora_alpha": 5, "lora_targets": ["v_proj", "q_proj"], "n_epochs": 1}
    job = await client.fine_tuning.jobs.create(model=shaped, training_file=training_file, hyperparameters=asked)
    told = (await client.fine_tuning.jobs.list_events(job.id, limit=1)).data[0]
    assert "lora_rank=3 (as asked), lora_alpha=5 (as asked), lora_targets=q_proj+v_proj (as asked)" in told.message
    plain = await client.fine_tuning.jobs.create(model=shaped, training_file=training_file)
    told = (await client.fine_tuning.jobs.list_events(plain.id, limit=1)).data[0]
    assert f"lora_rank=3 (auto: that of `{shaped}`)" in told.message
    assert told.data["lora_targets"] == ["q_proj", "v_proj"]


async def test_a_deleted_model_says_when_it_was_deleted(client, training_file, tuned):
    await client.models.delete(tuned)
    with pytest.raises(openai.NotFoundError, match=r"was deleted on 2026-09-21 at 14:13:20 UTC") as caught:
        await client.fine_tuning.jobs.create(model=tuned, training_file=training_file)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


async def test_a_tuned_model_that_never_was_is_told_where_to_look(client, training_file):
    with pytest.raises(openai.BadRequestError, match=r"Model ft:x:y::z does not exist or you do not have access to it"):
        await client.fine_tuning.jobs.create(model="ft:x:y::z", training_file=training_file)


async def test_a_model_whose_base_is_gone_names_what_to_fetch(client, training_file, tuned, settings):
    (settings.bases_dir / BASE / "base.json").unlink()
    with pytest.raises(openai.BadRequestError, match=f"milepost pull {BASE}"):
        await client.fine_tuning.jobs.create(model=tuned, training_file=training_file)


# --- the same request, sent again


async def test_a_retry_with_its_key_gives_the_job_that_was_made(client, training_file):
    jobs = client.fine_tuning.jobs
    asked = {"model": BASE, "training_file": training_file, "extra_headers": {"Idempotency-Key": "one"}}
    first = await jobs.create(**asked)
    assert await jobs.create(**asked) == first
    await jobs.cancel(first.id)
    await client.files.delete(training_file)
    again = await jobs.create(**asked)
    assert (again.id, again.status) == (first.id, "cancelled")
    assert len((await jobs.list()).data) == 1


async def test_creations_at_the_same_time_with_one_key_are_one_job(client, training_file):
    create = client.fine_tuning.jobs.create
    headers = {"Idempotency-Key": "one"}
    made = await asyncio.gather(
        *[create(model=BASE, training_file=training_file, extra_headers=headers) for _ in range(8)]
    )
    assert len({job.id for job in made}) == 1
    assert all(job == made[0] for job in made)


async def test_the_order_of_fields_does_not_make_another_request(http, training_file):
    bodies = [
        f'{{"model":"{BASE}","training_file":"{training_file}"}}',
        f'{{"training_file":"{training_file}","model":"{BASE}"}}',
    ]
    headers = {"idempotency-key": "one", "content-type": "application/json"}
    first, second = [(await http.post("/fine_tuning/jobs", content=body, headers=headers)).json() for body in bodies]
    assert first == second


async def test_a_key_for_another_request_is_refused(client, training_file):
    headers = {"Idempotency-Key": "one"}
    await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, extra_headers=headers)
    with pytest.raises(openai.BadRequestError, match="'one' was used with another request") as caught:
        await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, seed=1, extra_headers=headers)
    assert (caught.value.param, caught.value.code) == ("Idempotency-Key", "idempotency_key_reused")


@pytest.mark.parametrize("value", ["", "k" * 256])
async def test_a_key_that_is_none_is_refused(http, training_file, value):
    body = {"model": BASE, "training_file": training_file}
    answer = await http.post("/fine_tuning/jobs", json=body, headers={"Idempotency-Key": value})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        f"The Idempotency-Key has {len(value)} characters; it must have 1 to 255. A random UUID will do"
    )


# --- what is sent


DOCUMENTED = {
    "id", "object", "created_at", "model", "organization_id", "status", "training_file", "validation_file",
    "fine_tuned_model", "finished_at", "trained_tokens", "error", "hyperparameters", "result_files", "seed",
    "estimated_finish", "integrations", "method", "metadata", "user_provided_suffix", "usage_metrics", "progress",
    "shared_with_openai",
}  # fmt: skip


async def test_every_documented_key_is_sent_null_where_empty(http, training_file):
    job = (await http.post("/fine_tuning/jobs", json={"model": BASE, "training_file": training_file})).json()
    assert set(job) >= DOCUMENTED
    assert {name for name, value in job.items() if value is None} == {
        "validation_file", "fine_tuned_model", "finished_at", "trained_tokens", "error", "estimated_finish", "metadata",
        "user_provided_suffix", "usage_metrics", "forecast", "progress",
        "queue",
    }  # fmt: skip
    assert (job["result_files"], job["integrations"]) == ([], [])


async def test_an_integration_is_shown_as_openai_shows_it(client, http, training_file):
    job = await client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        integrations=[{"type": "wandb", "wandb": {"project": "p", "tags": ["a", "b"]}}],
    )
    shown = {"project": "p", "name": None, "entity": None, "tags": ["a", "b"], "run_id": job.id}
    answer = (await http.get(f"/fine_tuning/jobs/{job.id}")).json()
    assert answer["integrations"] == [{"type": "wandb", "wandb": shown}]


async def test_a_project_of_weights_and_biases_may_have_blanks_and_be_128_characters_long(client, training_file):
    project = "my pro.ject-é".ljust(128, "x")
    integrations = [{"type": "wandb", "wandb": {"project": project}}]
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, integrations=integrations)
    assert job.integrations[0].wandb.project == project


async def test_a_job_of_before_is_shown_whatever_its_project_is_called(client, training_file, database):
    integrations = [{"type": "wandb", "wandb": {"project": "p"}}]
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, integrations=integrations)
    with database.transaction() as connection:
        plan = connection.scalar(select(jobs.c.plan).where(jobs.c.id == job.id))
        plan["integrations"][0]["wandb"]["project"] = "my/pro ject"
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(plan=plan))
    assert (await client.fine_tuning.jobs.retrieve(job.id)).integrations[0].wandb.project == "my/pro ject"


async def test_pages_have_their_own_sizes_and_may_be_as_large_as_one_likes(http, job, database, training_file):
    told = [RunEvent(child_seq=seq, at=5, message=f"event {seq}") for seq in range(1, 1501)]
    ledger.add_events(database, job.id, told)
    events = f"/fine_tuning/jobs/{job.id}/events"
    assert len((await http.get(events)).json()["data"]) == 20
    everything = (await http.get(f"{events}?limit=100000")).json()
    assert (len(everything["data"]), everything["has_more"]) == (1504, False)
    nothing = (await http.get(f"{events}?limit=0")).json()
    assert (nothing["data"], nothing["has_more"]) == ([], False)
    for path in ("/fine_tuning/jobs", events, f"/fine_tuning/jobs/{job.id}/checkpoints"):
        refused = await http.get(f"{path}?limit=2147483648")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "limit")
        unknown = (await http.get(f"{path}?after=nobody")).json()
        assert (unknown["data"], unknown["has_more"]) == ([], False)


async def test_the_openapi_document_describes_every_field_and_parameter():
    document = served_document()
    schemas = document["components"]["schemas"]
    ours = (
        "Job",
        "Event",
        "JobRequest",
        "JobError",
        "Hyperparameters",
        "Integration",
        "Wandb",
        "JobIntegration",
        "WandbRun",
    )
    bare = [
        f"{name}.{field}"
        for name in ours
        for field, schema in schemas[name]["properties"].items()
        if not schema.get("description")
        or not ({"examples", "const", "default", "$ref", "anyOf"} & set(schema) or schema["type"] == "null")
    ]
    assert bare == []
    routes = [
        route for path, methods in document["paths"].items() if "fine_tuning" in path for route in methods.values()
    ]
    assert [p["name"] for route in routes for p in route.get("parameters", []) if not p.get("description")] == []


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
        lambda jobs: jobs.pause("ftjob-nobody"),
        lambda jobs: jobs.resume("ftjob-nobody"),
        lambda jobs: jobs.list_events("ftjob-nobody"),
        lambda jobs: jobs.checkpoints.list("ftjob-nobody"),
    ],
    ids=["retrieve", "cancel", "pause", "resume", "list_events", "checkpoints"],
)
async def test_an_unknown_job_is_not_found_everywhere(client, call):
    with pytest.raises(openai.NotFoundError, match=UNKNOWN) as caught:
        await call(client.fine_tuning.jobs)
    assert (caught.value.param, caught.value.code) == ("fine_tune_id", "fine_tune_not_found")


# --- the queue


async def test_a_job_that_waits_shows_its_place(client, database, training_file):
    leases.show_up(database, "worker", 1, NOW, NOW + 60)
    first, second = [await client.fine_tuning.jobs.create(model=BASE, training_file=training_file) for _ in range(2)]
    assert second.model_dump()["queue"] is None
    for job in (first, second):
        ledger.queue(database, job.id, NOW, stories.VALIDATED)
    leases.claim(database, "worker", Status.QUEUED, NOW)
    leases.heartbeat(database, first.id, "worker", NOW, int(NOW) + 90)
    place = {"position": 1, "reason": "1 of at most 1 jobs run on this server", "estimated_start": int(NOW) + 90}
    assert (await client.fine_tuning.jobs.retrieve(second.id)).model_dump()["queue"] == place
    assert [job.model_dump()["queue"] for job in (await client.fine_tuning.jobs.list()).data] == [place, None]


async def test_one_job_too_many_is_refused_and_not_sent_again(settings, database, engine, clock, training_file):
    limited = create_app(settings.model_copy(update={"max_waiting_per_project": 1}), database, engine, now=clock)
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=limited))
    async with openai.AsyncOpenAI(api_key=KEY, base_url="http://test/v1", http_client=http) as client:
        await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
        with pytest.raises(openai.RateLimitError, match="reached the maximum of 1 fine-tuning jobs that wait") as error:
            await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert error.value.code == "rate_limit_exceeded"
    assert error.value.response.headers["x-should-retry"] == "false"


async def test_a_nul_is_refused(client, training_file):
    with pytest.raises(openai.BadRequestError, match="NUL character"):
        await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, metadata={"team": "a\0b"})
