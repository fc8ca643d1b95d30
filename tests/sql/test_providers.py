"""Providers by configuration and ATTACH, several in one query, and other SDKs of the family when they are installed."""

from __future__ import annotations

import json

import httpx2
import pytest

from milepost.errors import Denied, Invalid, NotFound
from milepost.sql import walk
from milepost.sql.attach import configured
from milepost.sql.providers import sdk_provider
from milepost.sql.session import Session

TOML = """
[prod]
url = "https://prod.example/v1"
key_env = "PROD_KEY"
organization = "org-1"
headers = { X-Team = "ml" }
concurrency = 3

[admin]
type = "openai_admin"
"""


def test_a_file_configures_any_number_of_providers(tmp_path):
    path = tmp_path / "providers.toml"
    path.write_text(TOML)
    providers = configured(path, {"PROD_KEY": "sk-prod", "OPENAI_ADMIN_KEY": "sk-admin"})
    prod, admin = providers["prod"], providers["admin"]
    assert (prod.host, prod.root, prod.at_once) == ("https://prod.example/v1", "openai", 3)
    client = prod.connect()
    assert (client.api_key, client.organization, client.default_headers["X-Team"]) == ("sk-prod", "org-1", "ml")
    assert (admin.root, admin.connect().admin_api_key) == ("openai_admin", "sk-admin")
    assert configured(tmp_path / "none.toml", {}) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]\nulr = 'https://x'", "ulr of `a`"),
        ("[a]\nurl = 'ftp://x'", "url of `a`"),
        ("[a]\nconcurrency = 0", "concurrency of `a`"),
        ("[A-b]", "cannot name a provider"),
        ("a", "Cannot read"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path, text, says):
    path = tmp_path / "providers.toml"
    path.write_text(text)
    with pytest.raises(Invalid, match=says):
        configured(path, {})


async def test_attach_and_detach(fake):
    async with Session({"openai": fake.provider()}, environ={"PROD_KEY": "sk"}) as session:
        await session.execute(
            "ATTACH 'https://prod.example/v1' AS prod (TYPE openai, KEY_ENV 'PROD_KEY', CONCURRENCY 4)"
        )
        rows = await session.execute("SHOW PROVIDERS")
        assert await rows.fetchall() == [("openai", "http://openai.test/v1"), ("prod", "https://prod.example/v1")]
        with pytest.raises(Invalid, match="already"):
            await session.execute("ATTACH 'https://x/v1' AS prod")
        await session.execute("DETACH prod")
        with pytest.raises(NotFound, match="No provider `prod`"):
            await session.execute("SELECT id FROM prod.files.files")
        with pytest.raises(Invalid, match="no place in a statement"):
            await session.execute("ATTACH 'https://x/v1' AS p (KEY 'sk-1')")
        with pytest.raises(Invalid, match="DuckDB keeps that name"):
            await session.execute("ATTACH 'https://x/v1' AS temp")
    async with Session({}) as session:
        with pytest.raises(Denied, match="cannot be attached here"):
            await session.execute("ATTACH 'https://x/v1' AS p")


async def test_several_providers_in_one_query(fake):
    async with Session({"openai": fake.provider(), "local": fake.provider("local")}) as session:
        rows = await session.execute(
            "SELECT provider, count(*) FROM (SELECT provider, id FROM openai.fine_tuning.jobs UNION ALL "
            "SELECT provider, id FROM local.fine_tuning.jobs) GROUP BY 1 ORDER BY 1"
        )
        assert await rows.fetchall() == [("local", 3), ("openai", 3)]


async def test_what_the_sdk_does_not_know_is_in_raw(ask, fake):
    rows = await ask("SELECT provider, _raw ->> 'a_fact_of_ours', _request_id FROM openai.fine_tuning.jobs LIMIT 1")
    assert rows == [("openai", "unknown to the SDK", None)]
    fake.answer, answer = (lambda request: with_id(answer(request))), fake.answer
    assert await ask("SELECT _request_id FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'") == [("req_1",)]
    rows = await ask("SELECT * FROM openai.files.files WHERE provider = 'openai' LIMIT 1")
    assert "openai" not in rows[0]


def with_id(response: httpx2.Response) -> httpx2.Response:
    response.headers["x-request-id"] = "req_1"
    return response


# --- other SDKs -------------------------------------------------------------------------------------------------------

#: What each SDK's catalog must have, and a recorded answer of its server to a query.
RECORDED = {
    "anthropic": (
        {"anthropic.models.models", "anthropic.messages.batches", "anthropic.files.files"},
        [
            {"data": [{"id": "claude-a", "type": "model", "display_name": "A"}], "has_more": True, "first_id": "claude-a", "last_id": "claude-a"},
            {"data": [{"id": "claude-b", "type": "model", "display_name": "B"}], "has_more": False, "first_id": "claude-b", "last_id": "claude-b"},
        ],
        ["claude-a", "claude-b"],
        ["/v1/models?limit=100", "/v1/models?after_id=claude-a&limit=100"],
    ),
    "groq": (
        {"groq.models.models", "groq.batches.batches", "groq.files.files"},
        [{"object": "list", "data": [{"id": "llama", "object": "model", "created": 1, "owned_by": "Meta"}]}],
        ["llama"],
        ["/openai/v1/models"],
    ),
    "together": (
        {"together.models.models", "together.files.files", "together.fine_tuning.fine_tuning"},
        [[{"id": "meta/llama", "object": "model", "created": 1, "type": "chat"}]],
        ["meta/llama"],
        ["/models"],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("sdk", RECORDED)
async def test_another_sdk_is_walked_and_asked(sdk, tmp_path, monkeypatch):
    pytest.importorskip(sdk)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted, answers, ids, requests = RECORDED[sdk]
    asked: list[str] = []
    left = list(answers)
    client, module = _client_of(sdk)

    def answer(request):
        asked.append(request.url.raw_path.decode())
        return module.Response(200, content=json.dumps(left.pop(0)), headers={"content-type": "application/json"})

    http_client = client(transport=module.MockTransport(answer))
    provider = sdk_provider(sdk, sdk=sdk, base_url=f"http://{sdk}.test", api_key="k", http_client=http_client)
    async with Session({sdk: provider}) as session:
        rows = await session.execute(f"SELECT id FROM {sdk}.models.models ORDER BY id")
        assert [value for (value,) in await rows.fetchall()] == ids
    assert asked == requests
    catalog = json.loads(next((tmp_path / "milepost" / "catalogs").glob(f"{sdk}-*.json")).read_text())
    assert wanted <= catalog["tables"].keys()
    methods = [method for table in catalog["tables"].values() for method in table["methods"]]
    assert {method["http"] for method in methods if method["verb"] == "SELECT"} == {"GET"}


def _client_of(sdk: str):
    """The HTTP library that the SDK uses."""
    import importlib

    kinds = importlib.import_module(sdk).DefaultAsyncHttpxClient.__mro__
    kind = next(kind for kind in kinds if kind.__name__ == "AsyncClient")
    return kind, importlib.import_module(kind.__module__.partition(".")[0])


def test_an_sdk_that_is_not_installed_says_how():
    from milepost.sql.catalog import catalog_of

    with pytest.raises(NotFound, match="pip install cerebras"):
        catalog_of("cerebras")


def test_the_walk_names_its_sdks():
    assert set(walk.ROOTS) == set(walk.CLIENTS)
