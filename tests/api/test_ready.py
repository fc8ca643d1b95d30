"""A published checkpoint is loaded ahead, and tells how soon it could answer."""

import asyncio

import pytest

from milepost.cli.ready import warm, warmer
from milepost.errors import Corrupt
from milepost.jobs import ledger
from tests.api.conftest import BASE, NOW
from tests.api.fakes import checkpoint_folder


@pytest.fixture
async def published(client, training_file, database, tmp_path):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    return ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW)


async def ready_ms(client, published):
    [checkpoint] = (await client.fine_tuning.jobs.checkpoints.list(published.fine_tuning_job_id)).data
    return checkpoint.model_extra["ready_ms"]


async def test_it_is_null_until_it_was_measured(client, published):
    assert await ready_ms(client, published) is None


async def test_it_is_the_time_from_publication_to_the_first_token(client, published, database, settings, engine):
    await warm(database, settings, engine, published, since=100.0, clock=lambda: 100.0834)
    assert await ready_ms(client, published) == 83
    [asked] = engine.asked
    assert (asked.adapter.name, asked.max_tokens) == (published.fine_tuned_model_checkpoint, 1)


async def test_an_engine_that_is_not_up_is_left_alone(client, published, database, settings, engine):
    engine.up = False
    await warm(database, settings, engine, published, since=100.0)
    assert (engine.asked, await ready_ms(client, published)) == ([], None)


async def test_weights_that_cannot_be_loaded_are_no_news(client, published, database, settings, engine, caplog):
    engine.error = Corrupt("The adapter was changed")
    await warm(database, settings, engine, published, since=100.0)
    assert await ready_ms(client, published) is None
    assert "could not be loaded ahead: The adapter was changed" in caplog.text


async def test_the_worker_calls_from_its_own_thread(client, published, database, settings, engine):
    call = warmer(database, settings, engine, asyncio.get_running_loop())
    await asyncio.to_thread(call, published)
    await asyncio.wait_for(engine.closed.wait(), 10)


async def test_a_loop_that_has_ended_is_no_fault(published, database, settings, engine):
    over = asyncio.new_event_loop()
    over.close()
    warmer(database, settings, engine, over)(published)
