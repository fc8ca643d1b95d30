from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from milepost.cli.keys import keys
from milepost.config import Settings
from milepost.errors import Denied, NotFound
from milepost.store import keys as store
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
    assert [(words[1], words[-1]) for words in listed[1:]] == [
        ("project", "active"),
        ("admin", "active"),
        ("admin", "active"),
    ]


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
