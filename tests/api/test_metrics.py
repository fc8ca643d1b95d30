"""/metrics: what Prometheus reads, by whom it may be read, and that its labels are of small, closed sets."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from milepost.api.app import create_app
from milepost.api.metrics import METRICS
from milepost.errors import Unavailable
from milepost.jobs import leases, ledger, stories
from milepost.resources.jobs import JobProgress, Status
from milepost.serving.protocol import Counts
from milepost.store import keys
from tests.api.conftest import BASE, NOW

CHAT = {"model": BASE, "messages": [{"role": "user", "content": "Who?"}]}
SECRET = "prometheus-may-read-this-0123"


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"metrics_key": SecretStr(SECRET)})


@pytest.fixture
def read(outside):
    async def read() -> dict[tuple[str, ...], float]:
        """(name, label values …) → value, as Prometheus' own parser reads it."""
        answer = await outside.get("/metrics", headers={"authorization": f"Bearer {SECRET}"})
        assert answer.status_code == 200
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return read


async def test_every_metric_of_the_table_is_told_and_no_other(read, outside, http, engine):
    engine.told = {BASE: Counts(running=1, waiting=2, adapters_found={"slot": 3}, adapters_evicted={"slot": 4})}
    await http.post("/chat/completions", json=CHAT)
    await read()
    text = (await outside.get("/metrics", headers={"authorization": f"Bearer {SECRET}"})).text
    told = {(name, kind) for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)}
    told = {found for found in told if not found[0].endswith("_created")}
    assert told == {(name, each.kind) for name, each in METRICS.items()}
    for name, help_ in re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE):
        assert name.endswith("_created") or help_ == METRICS[name].text


async def test_requests_are_counted_by_the_template_of_their_route(read, http, training_file):
    await http.get(f"/files/{training_file}")
    await http.get("/files/file-nobody")
    await http.get("/models/a/b")
    await http.get("/nothing/%0Ainjected")
    await http.request("BREW", "/files")
    found = await read()
    assert found["milepost_http_requests_total", "GET", "/v1/files/{file_id}", "200"] == 1
    assert found["milepost_http_requests_total", "GET", "/v1/files/{file_id}", "404"] == 1
    assert found["milepost_http_requests_total", "GET", "/v1/models/{model}", "404"] == 1
    assert found["milepost_http_requests_total", "GET", "none", "404"] == 1
    assert found["milepost_http_request_seconds_count", "GET", "/v1/files/{file_id}"] == 2
    assert not [key for key in found if training_file in str(key) or "injected" in str(key) or "BREW" in str(key)]
    assert [key for key in found if key[1:2] == ("other",)]


async def test_generations_are_counted_with_their_tokens(read, http, engine):
    await http.post("/chat/completions", json=CHAT)
    engine.error = Unavailable("gone")
    await http.post("/chat/completions", json=CHAT)
    found = await read()
    assert found["milepost_generations_total", "done"] == 1
    assert found["milepost_generations_total", "Unavailable"] == 1
    assert found["milepost_tokens_total", "prompt"] == 7
    assert found["milepost_tokens_total", "completion"] == 3
    assert found["milepost_first_token_seconds_count",] == 1


async def test_jobs_are_counted_by_state_and_their_waits_measured(read, client, database, training_file):
    job = (await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)).id
    assert (await read())["milepost_jobs", "validating_files"] == 1
    ledger.queue(database, job, NOW, stories.VALIDATED)
    assert leases.claim(database, "here", Status.QUEUED, NOW + 42).job_id == job
    leases.heartbeat(
        database, job, "here", NOW + 43, None, JobProgress(phase="training", step=1, total_steps=2, tokens_per_s=321.5)
    )
    found = await read()
    assert (found["milepost_jobs", "running"], found["milepost_jobs", "queued"]) == (1, 0)
    assert (found["milepost_job_queue_seconds_count",], found["milepost_job_queue_seconds_sum",]) == (1, 42)
    assert found["milepost_training_tokens_per_second",] == 321.5
    assert (await read())["milepost_job_queue_seconds_count",] == 1  # each wait once


async def test_a_wait_that_began_before_this_process_is_measured_whole(
    settings, client, database, engine, training_file
):
    job = (await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)).id
    ledger.queue(database, job, NOW, stories.VALIDATED)
    later = create_app(settings, database, engine).state.parts.metrics
    leases.claim(database, "here", Status.QUEUED, NOW + 10)
    later.waited(database)
    assert later.registry.get_sample_value("milepost_job_queue_seconds_sum") == 10


async def test_an_engines_numbers_are_asked_for(read, engine):
    engine.told = {
        BASE: Counts(running=1, waiting=2, adapters_found={"slot": 3, "disk": 5}, adapters_evicted={"memory": 7})
    }
    found = await read()
    assert found["milepost_engine_requests", BASE, "waiting"] == 2
    assert found["milepost_adapter_requests_total", BASE, "disk"] == 5
    assert found["milepost_adapter_evictions_total", BASE, "memory"] == 7
    assert found["milepost_processes", "engine"] == 1


async def test_who_may_read_them(outside, database, key, settings, engine):
    _, admin = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
    _, project = keys.create(database, keys.KeyKind.PROJECT, "dev", NOW)
    wanted = {"": 401, "Bearer wrong": 401, f"Bearer {project}": 403, f"Bearer {admin}": 200, f"Bearer {SECRET}": 200}
    found = {
        header: (await outside.get("/metrics", headers={"authorization": header})).status_code for header in wanted
    }
    assert found == wanted
    for path in ("/v1/files", "/v1/organization/projects"):  # the metrics key opens nothing else
        assert (await outside.get(path, headers={"authorization": f"Bearer {SECRET}"})).status_code == 401


async def test_they_can_be_open(settings, database, engine):
    import httpx2

    app = create_app(settings.model_copy(update={"metrics_open": True}), database, engine)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as http:
        assert (await http.get("/metrics")).status_code == 200
