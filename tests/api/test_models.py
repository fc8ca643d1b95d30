import openai
import pytest

from milepost.jobs import ledger
from tests.api.conftest import BASE, NOW
from tests.api.fakes import checkpoint_folder

ASK = [{"role": "user", "content": "Who?"}]
GONE = r"was deleted on 2026-09-21 at 14:13:20 UTC"


@pytest.fixture
async def job(client, training_file):
    return await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, suffix="demo")


@pytest.fixture
async def tuned(job, database, tmp_path) -> str:
    return ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint


async def test_bases_aliases_and_checkpoints_are_listed(client, tuned):
    names = [model.id async for model in client.models.list()]
    assert BASE in names
    assert "gpt-4o-mini" in names
    assert tuned in names


async def test_the_list_has_no_pages(http, tuned):
    body = (await http.get("/models")).json()
    assert (body["object"], body["has_more"]) == ("list", False)
    assert all(model["object"] == "model" and model["shutdown_date"] is None for model in body["data"])


async def test_a_model_tells_its_base_and_the_job_that_made_it(client, tuned, job, key):
    model = await client.models.retrieve(tuned)
    assert (model.id, model.object, model.owned_by, model.created) == (tuned, "model", key.organization_id, int(NOW))
    assert (model.base, model.fine_tuning_job_id, model.step_number) == (BASE, job.id, 3)
    assert (model.project_id, model.shutdown_date) == (key.project_id, None)


async def test_an_alias_tells_the_base_it_stands_for_and_a_base_none(client):
    alias, base = await client.models.retrieve("gpt-4o-mini"), await client.models.retrieve(BASE)
    assert (alias.owned_by, alias.base) == (f"alias of {BASE}", BASE)
    assert (base.owned_by, base.base, base.fine_tuning_job_id) == ("system", None, None)


async def test_a_deleted_model_is_gone_everywhere_and_says_when(client, tuned):
    deleted = await client.models.delete(tuned)
    assert (deleted.id, deleted.object, deleted.deleted) == (tuned, "model", True)
    for call in (
        client.models.retrieve(tuned),
        client.models.delete(tuned),
        client.chat.completions.create(model=tuned, messages=ASK),
    ):
        with pytest.raises(openai.NotFoundError, match=f"The model '{tuned}' {GONE}") as caught:
            await call
        assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
    assert tuned not in [model.id async for model in client.models.list()]


async def test_its_job_goes_on_naming_a_deleted_model(client, tuned, job):
    await client.models.delete(tuned)
    listed = await client.fine_tuning.jobs.checkpoints.list(job.id)
    assert [checkpoint.fine_tuned_model_checkpoint for checkpoint in listed.data] == [tuned]


async def test_a_base_cannot_be_deleted(client):
    with pytest.raises(openai.BadRequestError, match=f"The model '{BASE}' is not a tuned model"):
        await client.models.delete(BASE)


@pytest.mark.parametrize("name", ["nobody", "Qwen/Qwen2.5-0.5B", "ft:gpt-4o-mini:acme:suffix:abc123"])
async def test_an_unknown_model_is_not_found_whatever_its_name_holds(client, name):
    with pytest.raises(openai.NotFoundError, match=f"The model '{name}' does not exist") as caught:
        await client.models.retrieve(name)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
