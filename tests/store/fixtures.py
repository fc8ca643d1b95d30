"""A store in a temporary folder, with a first key and a base in the cache that is a card only.

Each test that asks for it runs twice: on SQLite, and on Postgres when the tests marked `postgres` are run.
"""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost.config import Settings
from milepost.resources.admin import ProjectRequest, ServiceAccountRequest
from milepost.resources.files import File, Purpose
from milepost.resources.models import Base
from milepost.store import bases, blobs, files, keys, projects, service_accounts
from milepost.store.database import FILE, Database, open_database
from milepost.store.keys import Key, KeyKind
from tests.postgres import Cluster

#: Where the store may be. A test of one only asks for it with `@pytest.mark.parametrize("database_url", …)`.
BACKENDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]

NOW = 1_795_000_000.0

BASE = Base(
    name="tiny",
    hash="b" * 64,
    architecture="LlamaForCausalLM",
    parameters=100_000,
    context_length=512,
    created=1_790_000_000,
    source="made here",
)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Of an empty database, or of a migrated one for a test that asks for `database`; None for SQLite."""
    if request.param == "sqlite":
        yield None
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    if "database" in request.fixturenames:
        template = request.getfixturevalue("blank_postgres")
        name = cluster.lend(template)
        yield cluster.url(name)
        cluster.take_back(name, template)
    else:
        name = cluster.create()
        yield cluster.url(name)
        cluster.drop(name)


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    made = Settings(
        database_url=database_url,
        data_dir=tmp_path / "data",
        bases_dir=tmp_path / "bases",
        config_dir=tmp_path / "config",
        default_base=BASE.name,
        bootstrap_key="sk-proj-of-the-tests-and-long-enough",
    )
    card = bases.folder(made, BASE.name) / bases.CARD
    card.parent.mkdir(parents=True)
    card.write_text(BASE.model_dump_json())
    return made


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database with nothing in it, made once: to copy it is quicker than to migrate."""
    folder = tmp_path_factory.mktemp("blank")
    open_database(Settings(data_dir=folder)).close()
    return folder / FILE


@pytest.fixture(scope="session")
def blank_postgres(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `blank`, the name of a database of which copies are lent."""
    name = cluster.create()
    open_database(Settings(data_dir=tmp_path_factory.mktemp("blank"), database_url=cluster.url(name))).close()
    cluster.keep(name)
    return name


@pytest.fixture
def database(settings: Settings, blank: Path) -> Iterator[Database]:
    if settings.database_url is None:
        settings.data_dir.mkdir()
        shutil.copy(blank, settings.data_dir)
    opened = open_database(settings)
    yield opened
    opened.close()


@pytest.fixture
def key(database: Database, settings: Settings) -> Key:
    secrets = keys.bootstrap(database, settings, NOW)
    return keys.authenticate(database, secrets.project_key)


def upload(
    database: Database, key: Key, content: bytes = b"{}\n", *, purpose: Purpose = Purpose.FINE_TUNE, lines: int = 400
) -> File:
    blob = blobs.put(database.folder, io.BytesIO(content), limit=1_000_000)
    return files.add(database, key.project_id, filename="a.jsonl", purpose=purpose, blob=blob, lines=lines, now=NOW)


def administrator(database: Database) -> Key:
    """An admin key."""
    _, secret = keys.create(database, KeyKind.ADMIN, "boss", NOW)
    return keys.authenticate(database, secret, {KeyKind.ADMIN})


def stranger(database: Database) -> Key:
    """A key of another project, as admins make them: a service account's."""
    boss = administrator(database)
    project = projects.create(database, boss, ProjectRequest(name="other"), NOW)
    account = service_accounts.create(database, boss, project.id, ServiceAccountRequest(name="stranger"), NOW)
    assert account.api_key is not None
    return keys.authenticate(database, account.api_key.value)
