import openai
import pytest

from milepost.jobs import ledger
from tests.api.conftest import BASE, NOW
from tests.api.fakes import checkpoint_folder


@pytest.fixture
async def tuned(client, training_file, database, tmp_path) -> str:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file, suffix="demo")
    return ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint


async def test_bases_aliases_and_checkpoints_are_listed(client, tuned):
    names = [model.id async for model in client.models.list()]
    assert BASE in names
    assert "gpt-4o-mini" in names
    assert tuned in names


async def test_a_tuned_model_is_retrieved_and_deleted_by_its_name(client, tuned, key):
    model = await client.models.retrieve(tuned)
    assert (model.id, model.object, model.owned_by) == (tuned, "model", key.organization_id)
    deleted = await client.models.delete(tuned)
    assert (deleted.id, deleted.object, deleted.deleted) == (tuned, "model", True)
    with pytest.raises(openai.NotFoundError, match=f"The model '{tuned}' was deleted on 2026"):
        await client.models.retrieve(tuned)


async def test_a_base_cannot_be_deleted(client):
    with pytest.raises(openai.BadRequestError, match=f"The model '{BASE}' is not a tuned model"):
        await client.models.delete(BASE)


@pytest.mark.parametrize("name", ["nobody", "Qwen/Qwen2.5-0.5B", "ft:gpt-4o-mini:acme:suffix:abc123"])
async def test_an_unknown_model_is_not_found_whatever_its_name_holds(client, name):
    with pytest.raises(openai.NotFoundError, match=f"The model '{name}' does not exist") as caught:
        await client.models.retrieve(name)
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")
