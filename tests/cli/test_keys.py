from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from milepost.cli.keys import keys
from milepost.config import Settings
from milepost.errors import Denied, Invalid, NotFound
from milepost.resources.admin import ProjectRequest, ServiceAccountRequest
from milepost.store import keys as store
from milepost.store import projects, service_accounts
from milepost.store.database import open_database


@pytest.fixture
def data(tmp_path: Path) -> Path:
    settings = Settings(data_dir=tmp_path / "data")
    database = open_database(settings)
    store.bootstrap(database, settings, 1_795_000_000)
    database.close()
    return settings.data_dir


def run(data: Path, *words: str) -> Result:
    return CliRunner().invoke(keys, [*words, "--data", str(data)])


def test_a_key_is_printed_once_and_opens_the_door(data: Path) -> None:
    secret = run(data, "create", "--name", "bot").stdout.strip()
    database = open_database(Settings(data_dir=data))
    assert store.authenticate(database, secret).name == "bot"
    assert secret not in run(data, "list").stdout


def test_the_list_tells_kinds_and_names(data: Path) -> None:
    run(data, "create", "--name", "boss", "--admin")
    listed = [line.split() for line in run(data, "list").stdout.splitlines()]
    assert [(words[1], words[2], words[-1]) for words in listed[1:]] == [
        ("project", "Default", "active"),
        ("admin", "-", "active"),
        ("admin", "-", "active"),
    ]


@pytest.fixture
def nightly(data: Path) -> str:
    """The id of a second project, with a service account's key that expired long ago."""
    database = open_database(Settings(data_dir=data))
    boss = next(key for key in store.list_keys(database) if key.kind is store.KeyKind.ADMIN)
    project = projects.create(database, boss, ProjectRequest(name="nightly"), 1_790_000_000)
    wanted = ServiceAccountRequest(name="trainer", expires_in_seconds=60)
    service_accounts.create(database, boss, project.id, wanted, 1_790_000_000)
    database.close()
    return project.id


def test_the_list_tells_projects_service_accounts_and_what_has_expired(data: Path, nightly: str) -> None:
    words = run(data, "list").stdout.splitlines()[-1].split()
    assert words[2:6] == ["nightly", "trainer:", "Secret", "Key"]
    assert words[-4:] == ["never", "expired", "2026-09-21", "14:14"]


def test_a_key_of_an_archived_project_is_listed_as_such(data: Path, nightly: str) -> None:
    run(data, "create", "--project", "nightly")
    database = open_database(Settings(data_dir=data))
    boss = next(key for key in store.list_keys(database) if key.kind is store.KeyKind.ADMIN)
    projects.archive(database, boss, nightly, 1_790_000_000)
    assert "project archived 2026-09-21" in run(data, "list").stdout.splitlines()[-1]


@pytest.mark.parametrize("by", ["id", "name"])
def test_a_key_may_be_of_another_project(data: Path, nightly: str, by: str) -> None:
    made = run(data, "create", "--project", nightly if by == "id" else "nightly")
    assert "(project nightly, unnamed)" in made.stderr
    key = store.authenticate(open_database(Settings(data_dir=data)), made.stdout.strip())
    assert key.project_id == nightly


def test_an_admin_key_is_of_no_project(data: Path) -> None:
    assert isinstance(run(data, "create", "--admin", "--project", "Default").exception, Invalid)


def test_a_revoked_key_is_shown_as_such_and_opens_nothing(data: Path) -> None:
    secret = run(data, "create").stdout.strip()
    key_id = run(data, "list").stdout.splitlines()[-1].split()[0]
    assert run(data, "revoke", key_id).exit_code == 0
    assert " revoked " in run(data, "list").stdout.splitlines()[-1]
    with pytest.raises(Denied):
        store.authenticate(open_database(Settings(data_dir=data)), secret)


def test_revoking_an_unknown_key_is_an_error(data: Path) -> None:
    assert isinstance(run(data, "revoke", "key_x").exception, NotFound)


def test_no_folder_is_made_by_looking(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "none", "list").exception, NotFound)
    assert not (tmp_path / "none").exists()
