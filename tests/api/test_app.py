"""What every route shares: keys, projects, headers, and what importing the API costs."""

import base64
import subprocess
import sys

import httpx2
import openai
import pytest

from milepost.api.envelope import STATUS
from milepost.errors import Error
from milepost.jobs import ledger
from milepost.store import keys
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import BugError, checkpoint_folder

ROUTES = [
    ("POST", "/files"),
    ("GET", "/files"),
    ("GET", "/files/file-a"),
    ("DELETE", "/files/file-a"),
    ("GET", "/files/file-a/content"),
    ("POST", "/uploads"),
    ("POST", "/uploads/upload_a/parts"),
    ("POST", "/uploads/upload_a/complete"),
    ("POST", "/uploads/upload_a/cancel"),
    ("POST", "/fine_tuning/jobs"),
    ("GET", "/fine_tuning/jobs"),
    ("GET", "/fine_tuning/jobs/ftjob-a"),
    ("POST", "/fine_tuning/jobs/ftjob-a/cancel"),
    ("GET", "/fine_tuning/jobs/ftjob-a/events"),
    ("GET", "/fine_tuning/jobs/ftjob-a/checkpoints"),
    ("GET", "/models"),
    ("GET", "/models/a/b"),
    ("DELETE", "/models/a"),
    ("POST", "/chat/completions"),
    ("POST", "/nothing"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_answers_without_a_key(http, method, path):
    answer = await http.request(method, path, headers={"authorization": ""})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("You didn't provide an API key.")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_answers_to_a_wrong_key(http, method, path):
    answer = await http.request(method, path, headers={"authorization": "Bearer sk-proj-wrong-key-of-somebody-9876"})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (401, "invalid_request_error", "invalid_api_key")
    assert error["message"].startswith("Incorrect API key provided: sk-proj-***9876.")


async def test_a_wrong_key_is_the_sdks_authentication_error(client):
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key provided"):
        await client.with_options(api_key="wrong").models.list()


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"bearer {KEY}", 200),
        ("Basic " + base64.b64encode(f":{KEY}".encode()).decode(), 200),
        (f"Basic {KEY}", 401),
        (b"Basic \xe9", 401),
        (f"Digest {KEY}", 401),
        ("Bearer", 401),
        (KEY, 401),
        ("Bearer \N{LATIN SMALL LETTER E WITH ACUTE}".encode("latin-1"), 401),
    ],
)
async def test_how_a_key_may_be_sent(http, header, status):
    assert (await http.get("/models", headers={"authorization": header})).status_code == status


async def test_a_revoked_key_and_an_admin_key_are_refused(client, database):
    key, secret = keys.create(database, keys.KeyKind.PROJECT, "second", NOW)
    other = client.with_options(api_key=secret)
    assert (await other.files.list()).data == []
    keys.revoke(database, key.id, NOW)
    with pytest.raises(openai.AuthenticationError):
        await other.files.list()
    _, admin = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
    with pytest.raises(openai.PermissionDeniedError, match="is an admin key"):
        await client.with_options(api_key=admin).files.list()


async def test_another_projects_things_do_not_exist(client, stranger, training_file, database, tmp_path):
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    tuned = ledger.announce_checkpoint(
        database, job.id, checkpoint_folder(tmp_path, 3), NOW
    ).fine_tuned_model_checkpoint
    calls = [
        stranger.files.retrieve(training_file),
        stranger.files.content(training_file),
        stranger.files.delete(training_file),
        stranger.fine_tuning.jobs.retrieve(job.id),
        stranger.fine_tuning.jobs.cancel(job.id),
        stranger.fine_tuning.jobs.list_events(job.id),
        stranger.fine_tuning.jobs.checkpoints.list(job.id),
        stranger.models.retrieve(tuned),
        stranger.models.delete(tuned),
        stranger.chat.completions.create(model=tuned, messages=[{"role": "user", "content": "Who?"}]),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError):
            await call
    with pytest.raises(openai.BadRequestError, match="No such File object"):
        await stranger.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert (await stranger.files.list()).data == []
    assert (await stranger.fine_tuning.jobs.list()).data == []
    assert tuned not in [model.id async for model in stranger.models.list()]
    assert (await client.fine_tuning.jobs.retrieve(job.id)).status == "validating_files"


async def test_the_sdk_shows_the_request_id_of_an_error(client):
    with pytest.raises(openai.NotFoundError) as caught:
        await client.files.retrieve("file-nobody")
    assert caught.value.request_id.startswith("req_")


async def test_a_bug_is_a_fixed_sentence_and_its_traceback_is_in_the_log(http, engine, caplog):
    engine.error = BugError("the secret path")
    body = {"model": BASE, "messages": [{"role": "user", "content": "Who?"}]}
    answer = await http.post("/chat/completions", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (500, "server_error")
    assert error["message"].startswith("The server had an error while processing your request. Sorry about that!")
    assert answer.headers["x-request-id"] in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert "BugError: the secret path" in caplog.text


def test_every_error_of_the_domain_has_a_status():
    assert set(STATUS) == set(Error.__subclasses__())
    assert not {409, 422} & set(STATUS.values())


async def test_what_describes_the_api_needs_no_key(app, key):
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.get("/openapi.json")
    assert answer.json()["info"]["title"] == "Milepost"
    assert answer.headers["openai-organization"] == key.organization_id
    assert answer.headers["x-request-id"].startswith("req_")


def test_starting_the_api_imports_no_torch():
    check = (
        "import sys, milepost.api.app; print(sorted({'torch', 'transformers', 'peft', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
