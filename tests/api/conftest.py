"""The API over a fresh store and an engine that answers by rule, spoken to by the unmodified SDK in memory."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from milepost.api.app import create_app
from milepost.config import Settings
from milepost.resources.models import Base
from milepost.store import keys
from milepost.store.database import Database, open_database
from milepost.store.keys import Key
from tests.api.fakes import Clock, ScriptedEngine
from tests.postgres import Cluster
from tests.store.fixtures import database_url

__all__ = ["database_url"]

KEY = "sk-proj-the-key-of-these-tests-0123456789"
BASE = "tiny-random-llama"
NOW = 1_790_000_000.5


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    folder = tmp_path / "bases" / BASE
    folder.mkdir(parents=True)
    base = Base(
        name=BASE,
        hash="b" * 64,
        architecture="LlamaForCausalLM",
        parameters=103_000,
        context_length=2048,
        created=1_700_000_000,
        source="made here",
    )
    (folder / "base.json").write_text(base.model_dump_json())
    return Settings(
        database_url=database_url,
        data_dir=tmp_path / "data",
        bases_dir=tmp_path / "bases",
        config_dir=tmp_path / "config",
        default_base=BASE,
        max_file_bytes=1024 * 1024,
    )


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as the first start leaves it. Tests get copies: migrating anew for each takes longer than they do."""
    folder = tmp_path_factory.mktemp("first-start")
    settings = Settings(data_dir=folder, bases_dir=folder, config_dir=folder, bootstrap_key=SecretStr(KEY))
    database = open_database(settings)
    keys.bootstrap(database, settings, NOW)
    database.close()
    return folder


@pytest.fixture(scope="session")
def blank_postgres(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `first_start`, the name of a database of which copies are lent."""
    name = cluster.create()
    folder = tmp_path_factory.mktemp("first-start")
    settings = Settings(data_dir=folder, bootstrap_key=SecretStr(KEY), database_url=cluster.url(name))
    database = open_database(settings)
    keys.bootstrap(database, settings, NOW)
    database.close()
    cluster.keep(name)
    return name


@pytest.fixture
def database(settings: Settings, first_start: Path) -> Iterator[Database]:
    if settings.database_url is None:
        shutil.copytree(first_start, settings.data_dir)
    database = open_database(settings)
    yield database
    database.close()


@pytest.fixture
def key(database: Database) -> Key:
    return keys.authenticate(database, KEY)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def app(settings: Settings, database: Database, engine: ScriptedEngine, clock: Clock) -> FastAPI:
    return create_app(settings, database, engine, now=clock)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """The wire itself, for what the SDK would not send. A key is sent unless a test says otherwise."""
    transport = httpx2.ASGITransport(app=app)
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://test/v1", headers=headers) as client:
        yield client


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[openai.AsyncOpenAI]:
    """The SDK, unmodified; every departure from its types is an error."""
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    async with openai.AsyncOpenAI(
        api_key=KEY,
        base_url="http://test/v1",
        http_client=http,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


@pytest.fixture
def admin(client: openai.AsyncOpenAI, database: Database) -> openai.AsyncOpenAI:
    """The SDK with an admin key for everything: `client.admin`, and the routes for which it sends the other key."""
    _, secret = keys.create(database, keys.KeyKind.ADMIN, "boss", NOW)
    return client.with_options(api_key=secret, admin_api_key=secret)


@pytest.fixture
async def other_project(admin: openai.AsyncOpenAI) -> str:
    """The id of a second project."""
    return (await admin.admin.organization.projects.create(name="other")).id


@pytest.fixture
async def stranger(client: openai.AsyncOpenAI, admin: openai.AsyncOpenAI, other_project: str) -> openai.AsyncOpenAI:
    """A client of the second project."""
    accounts = admin.admin.organization.projects.service_accounts
    account = await accounts.create(other_project, name="stranger")
    assert account.api_key is not None
    return client.with_options(api_key=account.api_key.value)


@pytest.fixture
async def training_file(client: openai.AsyncOpenAI) -> str:
    line = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
    file = await client.files.create(file=("train.jsonl", line * 12), purpose="fine-tune")
    return file.id


@pytest.fixture
async def outside(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """The server without a key: what describes the API."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test") as client:
        yield client
