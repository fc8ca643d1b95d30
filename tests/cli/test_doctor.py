"""`milepost doctor`: each thing is broken, and told with what would mend it."""

from __future__ import annotations

import fcntl
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from milepost.cli.doctor import doctor
from milepost.cli.doctor.checks import Patient, examine
from milepost.config import Settings
from milepost.store import keys
from milepost.store.database import open_database
from tests.postgres import Cluster


@pytest.fixture
def environment(tmp_path: Path, tiny_base: Path) -> dict[str, str]:
    """A data folder as the first start leaves it, the tiny base, a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(data_dir=tmp_path / "data", config_dir=tmp_path / "config", bases_dir=tiny_base.parent)
    database = open_database(settings)
    keys.bootstrap(database, settings, time.time())
    database.close()
    return {
        "MILEPOST_DATA_DIR": str(tmp_path / "data"),
        "MILEPOST_CONFIG_DIR": str(tmp_path / "config"),
        "MILEPOST_BASES_DIR": str(tiny_base.parent),
        "MILEPOST_DEFAULT_BASE": tiny_base.name,
        "MILEPOST_PORT": str(port),
    }


def amiss(environment: dict[str, str], *, deep: bool = False) -> list[tuple[str, str, str]]:
    found = examine(Patient.of(environment, None, deep=deep))
    return [(each.check, each.state, f"{each.says} | {each.remedy}") for each in found if each.state != "ok"]


def data(environment: dict[str, str]) -> Path:
    return Path(environment["MILEPOST_DATA_DIR"])


def test_of_a_sound_installation_nothing_is_amiss(environment):
    assert amiss(environment, deep=True) == []


def test_a_misspelt_setting_is_told_with_the_one_that_was_meant_and_the_rest_is_looked_at(environment):
    found = amiss(environment | {"MILEPOST_MAX_RUNING_JOBS": "2"})
    ((check, state, says),) = found
    assert (check, state) == ("settings", "bad")
    assert says.startswith("MILEPOST_MAX_RUNING_JOBS is not a setting")
    assert says.endswith("Did you mean MILEPOST_MAX_RUNNING_JOBS?")


def test_a_value_that_does_not_fit(environment):
    ((check, state, says),) = amiss(environment | {"MILEPOST_MAX_RUNNING_JOBS": "none"})
    assert (check, state) == ("settings", "bad")
    assert "MILEPOST_MAX_RUNNING_JOBS" in says


def test_a_base_that_is_missing(environment):
    ((check, state, says),) = amiss(environment | {"MILEPOST_DEFAULT_BASE": "smollm2-135m-instruct"})
    assert (check, state, says.split(" | ")[1]) == ("bases", "warn", "milepost pull smollm2-135m-instruct")


def test_a_base_that_was_changed(environment, tiny_base, tmp_path):
    import shutil

    copy = tmp_path / "bases" / tiny_base.name
    shutil.copytree(tiny_base, copy)
    with (copy / "model.safetensors").open("ab") as weights:
        weights.write(b"\0")
    ((check, state, says),) = amiss(environment | {"MILEPOST_BASES_DIR": str(copy.parent)})
    assert (check, state) == ("bases", "bad")
    assert says == f"{tiny_base.name} is not what was fetched | Remove {copy}, then `milepost pull {tiny_base.name}`"


def test_a_data_folder_that_is_open_to_others(environment):
    data(environment).chmod(0o755)
    ((check, state, says),) = amiss(environment)
    assert (check, state) == ("data", "warn")
    assert says.endswith(f"| chmod 700 {data(environment)}")


def test_a_disk_that_is_full(environment):
    ((check, state, says),) = amiss(environment | {"MILEPOST_MIN_FREE_BYTES": str(2**60)})
    assert (check, state) == ("disk", "bad")
    assert "MILEPOST_MIN_FREE_BYTES" in says


def change(environment: dict[str, str], *statements: str) -> None:
    with sqlite3.connect(data(environment) / "milepost.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_database_of_a_newer_milepost(environment):
    change(environment, "UPDATE alembic_version SET version_num = '9999'")
    ((check, state, says),) = amiss(environment)
    assert (check, state) == ("schema", "bad")
    assert says.startswith("the database has schema 9999, this Milepost knows ")


def test_a_database_that_is_damaged(environment):
    path = data(environment) / "milepost.db"
    change(environment, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 12] = b"\xff" * (4096 * 10)
    path.write_bytes(content)
    found = amiss(environment)
    assert found
    assert {state for _, state, _ in found} == {"bad"}


def test_a_row_that_names_one_that_is_not_there(environment):
    change(environment, "UPDATE keys SET project_id = 'proj_gone'")
    assert ("integrity", "bad") in {found[:2] for found in amiss(environment)}
    assert any("a row of keys names one of projects that is not there" in says for _, _, says in amiss(environment))


def test_a_clock_that_was_set_back(environment):
    change(
        environment,
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO events (job_id, position, id, created_at, level, type, message, data) "
        f"VALUES ('ftjob-a', 1, 'ftevent-a', {int(time.time()) + 7200}, 'info', 'message', 'x', '{{}}')",
    )
    assert ("clock", "bad") in {found[:2] for found in amiss(environment)}


def test_keys_that_were_all_revoked(environment):
    change(environment, "UPDATE keys SET revoked_at = 1")
    assert [found[:2] for found in amiss(environment)] == [("keys", "bad")]


def test_bytes_that_are_gone_and_bytes_that_were_changed(environment):
    change(
        environment,
        "PRAGMA foreign_keys = OFF",
        "INSERT INTO files (id, project_id, created_at, filename, purpose, bytes, sha256) "
        f"SELECT 'file-lost', project_id, 1, 'a', 'fine-tune', 1, '{'a' * 64}' FROM keys LIMIT 1",
    )
    (data(environment) / "files" / ("b" * 64)).write_bytes(b"not of this hash")
    shallow, deep = amiss(environment), amiss(environment, deep=True)
    assert [found[:2] for found in shallow] == [("blobs", "bad")]
    assert "file-lost" in shallow[0][2]
    assert [found[:2] for found in deep] == [("blobs", "bad")] * 2
    assert f"{'b' * 64} is not the bytes of its hash" in deep[1][2]


def test_a_run_that_is_no_jobs(environment):
    (data(environment) / "runs" / "ftjob-nobody").mkdir(parents=True)
    ((check, state, says),) = amiss(environment)
    assert (check, state) == ("runs", "warn")
    assert "ftjob-nobody" in says


def test_a_port_that_is_taken(environment):
    with socket.create_server(("127.0.0.1", int(environment["MILEPOST_PORT"]))):
        ((check, state, says),) = amiss(environment)
    assert (check, state) == ("port", "bad")
    assert says.endswith("Stop what listens there, or set MILEPOST_PORT")


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH], ids=["alone", "beside others"])
def test_a_port_that_is_taken_by_this_folders_own_server(environment, kind):
    with (
        (data(environment) / "lock").open("a") as lock,
        socket.create_server(("127.0.0.1", int(environment["MILEPOST_PORT"]))),
    ):
        fcntl.flock(lock, kind)
        assert amiss(environment) == []


def test_a_key_that_others_can_read(environment):
    note = Path(environment["MILEPOST_CONFIG_DIR"]) / "local.json"
    note.parent.mkdir()
    note.write_text("{}")
    note.chmod(0o644)
    ((check, state, says),) = amiss(environment)
    assert (check, state, says.split(" | ")[1]) == ("keys", "bad", f"chmod 600 {note}")


def test_a_limit_that_is_low(environment):
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        ((check, state, says),) = amiss(environment)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (check, state, says.split(" | ")[1]) == ("limits", "warn", "ulimit -n 1024")


def test_nothing_is_made_where_nothing_was(environment, tmp_path):
    found = amiss(environment | {"MILEPOST_DATA_DIR": str(tmp_path / "none")})
    assert [each[:2] for each in found] == [("data", "warn")]
    assert not (tmp_path / "none").exists()


def test_its_code_says_whether_something_is_bad_and_programs_can_read_it(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    app = typer.Typer()
    app.command()(doctor)
    sound = CliRunner().invoke(app, ["--json"])
    assert sound.exit_code == 0, sound.output
    assert {found["state"] for found in json.loads(sound.stdout)} == {"ok"}
    monkeypatch.setenv("MILEPOST_MIN_FREE_BYTES", str(2**60))
    ill = CliRunner().invoke(app, [])
    assert ill.exit_code == 1
    assert "BAD   disk: " in ill.stdout


# ------------------------------------------------------------------------------------------------ Postgres


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """Of an empty database."""
    name = cluster.create()
    yield name
    cluster.drop(name)


@pytest.fixture
def on_postgres(cluster: Cluster, name: str, environment: dict[str, str]) -> dict[str, str]:
    """A store in Postgres, as the first start leaves it."""
    url, folder = cluster.url(name), data(environment).with_name("shared")
    database = open_database(Settings(data_dir=folder, database_url=url))
    keys.bootstrap(database, Settings(), time.time())
    database.close()
    return environment | {"MILEPOST_DATABASE_URL": url, "MILEPOST_DATA_DIR": str(folder)}


TOLD = (
    "Postgres runs with fsync = off, full_page_writes = off, synchronous_commit = off | Turn them on in postgresql.conf: "
    "what was answered may be gone when the power goes"
)
#: The tests' own Postgres is in a hurry.
CARELESS = ("database", "warn", TOLD)


@pytest.mark.postgres
def test_a_sound_postgres_is_looked_at_as_sqlite_is(on_postgres):
    assert amiss(on_postgres, deep=True) == [CARELESS]
    checks = [(each.check, each.state) for each in examine(Patient.of(on_postgres, None))]
    assert {("database", "ok"), ("schema", "ok"), ("clock", "ok"), ("blobs", "ok")} <= set(checks)


@pytest.mark.postgres
@pytest.mark.parametrize(("ahead_s", "told"), [(40, "40 s behind"), (-40, "40 s ahead of"), (2, None)])
def test_a_machine_whose_clock_is_not_the_databases_is_told(on_postgres, monkeypatch, ahead_s, told):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead_s)
    says = [says for check, _, says in amiss(on_postgres) if check == "clock"]
    wanted = f"the database's clock is {told} this machine's | Set both (timedatectl set-ntp true): keys and uploads "
    assert says == ([f"{wanted}expire by them"] if told else [])


@pytest.mark.postgres
def test_what_is_wrong_with_a_store_in_postgres(cluster, name, on_postgres):
    with psycopg.connect(cluster.dsn(name), autocommit=True) as connection:
        connection.execute("UPDATE keys SET revoked_at = 1")
        connection.execute(
            "INSERT INTO files (id, project_id, created_at, filename, purpose, bytes, sha256) "
            f"SELECT 'file-lost', project_id, 1, 'a', 'fine-tune', 1, '{'a' * 64}' FROM keys LIMIT 1"
        )
        (data(on_postgres) / "runs" / "ftjob-nobody").mkdir(parents=True)
        found = [each[:2] for each in amiss(on_postgres)]
        assert found == [CARELESS[:2], ("keys", "bad"), ("blobs", "bad"), ("runs", "warn")]
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        newer = next(says for check, _, says in amiss(on_postgres) if check == "schema")
    assert newer.startswith("the database has schema 9999, this Milepost knows ")
    assert newer.endswith("Upgrade Milepost, or name another database in MILEPOST_DATABASE_URL")


@pytest.mark.postgres
def test_a_postgres_without_tables_is_new_not_ill_and_stays_without(cluster, name, environment):
    given = environment | {"MILEPOST_DATABASE_URL": cluster.url(name)}
    for _ in range(2):
        assert amiss(given) == [
            ("schema", "warn", "the database has no tables yet | The first `milepost serve` makes them"),
            CARELESS,
        ]


@pytest.mark.postgres
def test_a_postgres_that_does_not_let_it_in(cluster, name, on_postgres):
    def told(url: str) -> tuple[str, str]:
        found = amiss(on_postgres | {"MILEPOST_DATABASE_URL": url})
        ((_, state, says),) = [each for each in found if each[0] == "database"]
        assert state == "bad"
        assert "wrong-secret" not in says
        assert [check for check, *_ in found] == ["database"]  # once, and not of each thing that is in it
        says, _, remedy = says.rpartition(" | ")
        return says, remedy

    hba = cluster.folder / "data" / "pg_hba.conf"
    before = hba.read_bytes()
    cluster.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
    try:
        hba.write_bytes(b"local all locked scram-sha-256\nlocal all shut reject\n" + before)
        cluster.execute("SELECT pg_reload_conf()")
        place = f"?host={cluster.folder}"
        says, remedy = told(f"postgresql://locked:wrong-secret@/{name}{place}")
        assert 'password authentication failed for user "locked"' in says
        assert remedy == "Mend the user or password in MILEPOST_DATABASE_URL"
        assert told(f"postgresql://tests@/nowhere{place}")[1].startswith("Make the database (createdb)")
        assert told(f"postgresql://nobody@/{name}{place}")[1].startswith("Make the user (createuser)")
        assert told(f"postgresql://locked:right@/{name}{place}")[1].startswith("Let the user read and write all tables")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        says, remedy = told(f"postgresql://tests:wrong-secret@127.0.0.1:{port}/{name}")
        assert "refused" in says
        assert remedy == "Start Postgres, or mend the host and port in MILEPOST_DATABASE_URL"
    finally:
        hba.write_bytes(before)
        cluster.execute("SELECT pg_reload_conf()")
        cluster.execute("DROP ROLE locked")


def test_a_url_that_is_none_of_postgres(environment):
    found = amiss(environment | {"MILEPOST_DATABASE_URL": "mysql://tests:wrong-secret@db/milepost"})
    assert {(check, state) for check, state, _ in found} == {("postgres", "bad")}
    assert "wrong-secret" not in str(found)
    assert "MILEPOST_DATABASE_URL is no URL of a Postgres database" in found[0][2]


def test_a_restore_that_was_interrupted(environment):
    (data(environment) / "restoring").touch()
    assert amiss(environment)[0][:2] == ("data", "bad")
    assert amiss(environment)[0][2].endswith("| Run the same `milepost restore` again")
