"""Walks over every route of the OpenAPI document, so that a route added tomorrow is in them without a word.

Whose things a key sees, which kinds of keys a path takes, and what every answer wears.
"""

import re

import pytest

from milepost.api.auth import taken_by
from milepost.jobs import ledger
from milepost.store import keys
from milepost.store.keys import KeyKind
from tests.api.conftest import BASE, KEY, NOW
from tests.api.fakes import checkpoint_folder
from tests.api.walk import Route, example, routes
from tests.api.world import served_document


@pytest.fixture
def document():
    return served_document()


@pytest.fixture
async def samples(client, admin, document, training_file, database, tmp_path) -> dict[str, str]:
    """A thing of the first project for each path parameter there is."""
    first = keys.authenticate(database, KEY)
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    name = ledger.announce_checkpoint(database, job.id, checkpoint_folder(tmp_path, 3), NOW).fine_tuned_model_checkpoint
    third = await admin.admin.organization.projects.create(name="third")
    shared = await client.fine_tuning.checkpoints.permissions.create(name, project_ids=[third.id])
    account = await admin.admin.organization.projects.service_accounts.create(first.project_id, name="robot")
    boss = next(key for key in keys.list_keys(database) if key.kind is KeyKind.ADMIN)
    samples = {
        "file_id": training_file,
        "fine_tuning_job_id": job.id,
        "model": name,
        "fine_tuned_model_checkpoint": name,
        "permission_id": shared.data[0].id,
        "project_id": first.project_id,
        "api_key_id": account.api_key.id,
        "service_account_id": account.id,
        "key_id": boss.id,
    }
    if "/v1/uploads" in document["paths"]:
        upload = await client.uploads.create(bytes=3, filename="a.jsonl", mime_type="text/jsonl", purpose="fine-tune")
        samples["upload_id"] = upload.id
    return samples


def of_projects(document) -> list[Route]:
    """The routes that a project key opens."""
    return [route for route in routes(document) if KeyKind.PROJECT in taken_by(route.path)]


async def test_what_belongs_to_another_project_does_not_exist(http, stranger, samples, document):
    """A key of another project gets a 404 for every id of the first one's, and lists without them."""
    theirs = {"authorization": f"Bearer {stranger.api_key}"}
    for route in of_projects(document):
        url = route.url(samples).removeprefix("/v1")
        if route.parameters:
            answer = await http.request(route.method, url, headers=theirs, **route.body(document))
            assert answer.status_code == 404, f"{route.method} {url}: {answer.status_code} {answer.text}"
            assert "Invalid URL" not in answer.text, f"{route.method} {url} reached no route"
        elif route.method == "get":
            answer = await http.request(route.method, url, headers=theirs)
            assert answer.status_code == 200
            assert [name for name, value in samples.items() if value in answer.text] == [], url


async def test_the_same_walk_by_the_owner_finds_everything(http, samples, document):
    """So that the 404s of the walk above are of whose the things are, and not of ids that are nobody's."""
    walked = [route for route in of_projects(document) if route.method == "get"]
    assert len(walked) >= 9
    for route in walked:
        url = route.url(samples).removeprefix("/v1")
        answer = await http.get(url)
        assert answer.status_code == 200, f"{url}: {answer.text}"


async def test_of_what_the_first_project_has_the_walk_has_taken_nothing(http, stranger, samples, document, client):
    theirs = {"authorization": f"Bearer {stranger.api_key}"}
    for route in of_projects(document):
        if route.method != "get" and route.parameters:
            url = route.url(samples).removeprefix("/v1")
            await http.request(route.method, url, headers=theirs, **route.body(document))
    assert (await client.files.retrieve(samples["file_id"])).id == samples["file_id"]
    assert (await client.fine_tuning.jobs.retrieve(samples["fine_tuning_job_id"])).status == "validating_files"
    assert (await client.models.retrieve(samples["model"])).id == samples["model"]
    permissions = await client.fine_tuning.checkpoints.permissions.list(samples["model"])
    assert [permission.id for permission in permissions.data] == [samples["permission_id"]]


async def test_a_path_takes_its_kinds_of_keys_and_no_other(http, admin, samples, document):
    """Project keys open no admin route, admin keys no other but those that take both; nothing of it is done."""
    secrets = {KeyKind.PROJECT: KEY, KeyKind.ADMIN: admin.api_key}
    refused = []
    for route in routes(document):
        for kind in set(KeyKind) - taken_by(route.path):
            url = route.url(samples).removeprefix("/v1")
            headers = {"authorization": f"Bearer {secrets[kind]}"}
            answer = await http.request(route.method, url, headers=headers, **route.body(document))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_permissions"), url
            refused.append((kind, route.path))
    assert (KeyKind.PROJECT, "/v1/organization/projects") in refused
    assert (KeyKind.ADMIN, "/v1/files") in refused


@pytest.mark.parametrize(
    "trick", ["%0A", "%0D", "%20", "%00", "/", "//", "%2F", "?", "%3F", "/.", "/../files", ";", "#"]
)
async def test_no_trick_with_a_path_opens_an_admin_route_to_a_project_key(http, samples, document, trick):
    """Starlette's routes match before a trailing newline, so `/organization/projects%0A` is a route too."""
    for route in routes(document):
        if KeyKind.PROJECT not in taken_by(route.path):
            url = route.url(samples).removeprefix("/v1")
            answer = await http.request(route.method, url + trick, **route.body(document))
            assert answer.status_code in {403, 404}, f"{route.method} {url}{trick}: {answer.text}"
            if answer.status_code == 404:
                assert answer.json()["error"]["message"].startswith("Invalid URL"), f"{url}{trick}"


async def test_no_route_answers_without_a_key_or_to_a_wrong_one(http, samples, document):
    for route in routes(document):
        url = route.url(samples).removeprefix("/v1")
        for authorization in ("", "Bearer sk-proj-nobodys-key-0123456789"):
            answer = await http.request(route.method, url, headers={"authorization": authorization})
            assert answer.status_code == 401, f"{route.method} {url}"


@pytest.mark.parametrize("who", ["nobody", "project", "admin"])
async def test_every_answer_wears_openais_headers(http, admin, samples, document, key, who):
    secrets = {"nobody": "sk-proj-nobodys-key-0123456789", "project": KEY, "admin": admin.api_key}
    seen = set()
    urls = [(route.method, route.url(samples).removeprefix("/v1")) for route in routes(document)]
    for method, url in [*urls, ("get", "/nothing"), ("put", "/files"), ("get", "/organization/users")]:
        answer = await http.request(method, url, headers={"authorization": f"Bearer {secrets[who]}"})
        assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
        assert answer.headers["openai-version"] == "2020-10-01"
        assert answer.headers["openai-organization"] == key.organization_id
        assert int(answer.headers["openai-processing-ms"]) >= 0
        is_let_in = who == "project" and answer.status_code != 403
        assert answer.headers.get("openai-project") == (key.project_id if is_let_in else None)
        seen.add(answer.status_code)
    assert seen >= {"nobody": {401}, "project": {200, 400, 403, 404, 405}, "admin": {200, 400, 403, 404}}[who]


def test_a_parameter_without_a_sample_is_told_how_to_get_one():
    with pytest.raises(
        AssertionError, match=r"has the path parameter \{thing_id\}, of which there is no sample: add one"
    ):
        Route("get", "/v1/things/{thing_id}", {}).url({})


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "minLength": 3}, "xxx"),
        ({"type": "array", "minItems": 2, "items": {"type": "integer", "minimum": 5}}, [5, 5]),
        ({"anyOf": [{"const": "a"}, {"type": "null"}]}, "a"),
        ({"$ref": "#/components/schemas/A"}, {"b": False}),
        ({"type": "string", "examples": ["proj_a"]}, "proj_a"),
    ],
)
def test_a_body_is_made_of_its_schema(schema, value):
    a = {"type": "object", "required": ["b"], "properties": {"b": {"type": "boolean"}, "c": {"type": "string"}}}
    assert example(schema, {"components": {"schemas": {"A": a}}}) == value
