import threading
from collections.abc import Callable

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from pydantic import SecretStr
from sqlalchemy import Engine, MetaData, create_engine, insert, select, text

from milepost.config import Settings
from milepost.errors import Conflict, Invalid, Unavailable
from milepost.store import blobs, schema
from milepost.store.database import FILE, Database, open_database
from tests.postgres import Cluster

POSTGRES = [pytest.param("postgres", marks=pytest.mark.postgres)]
SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def organization(name: str) -> dict[str, object]:
    return {"id": f"org-{name}", "name": name, "created_at": 1}


def test_migrations_from_nothing_make_the_tables_the_code_knows(settings: Settings) -> None:
    opened = open_database(settings)
    with opened.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    opened.close()


def test_opening_again_keeps_what_is_there(settings: Settings) -> None:
    first = open_database(settings)
    with first.transaction() as connection:
        connection.execute(insert(schema.organizations).values(organization("kept")))
    first.close()
    again = open_database(settings)
    with again.reading() as connection:
        assert connection.scalars(select(schema.organizations.c.name)).all() == ["kept"]
    again.close()


def test_a_store_of_a_newer_milepost_is_refused(database: Database, settings: Settings) -> None:
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match=r"written by a newer Milepost \(schema 9999\)"):
        open_database(settings)


def test_what_raises_in_a_transaction_has_not_happened(database: Database) -> None:
    def half_done() -> None:
        with database.transaction() as connection:
            connection.execute(insert(schema.organizations).values(organization("lost")))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    with database.reading() as connection:
        assert connection.scalars(select(schema.organizations.c.name)).all() == []


def test_a_reader_is_not_kept_waiting_by_a_writer(database: Database) -> None:
    with database.transaction() as writing:
        writing.execute(insert(schema.organizations).values(organization("late")))
        with database.reading() as reading:
            assert reading.scalars(select(schema.organizations.c.name)).all() == []


def test_writers_take_turns(database: Database) -> None:
    """Each reads, then writes what it read plus one: nobody's addition is lost, and nobody is refused."""
    with database.transaction() as connection:
        connection.execute(insert(schema.organizations).values(organization("0")))

    def add_one() -> None:
        for _ in range(10):
            with database.transaction() as connection:
                name = connection.scalars(select(schema.organizations.c.name)).one()
                connection.execute(schema.organizations.update().values(name=str(int(name) + 1)))

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert connection.scalars(select(schema.organizations.c.name)).one() == "40"


@SQLITE
def test_a_commit_is_on_disk(database: Database) -> None:
    with database.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_the_data_folder_is_its_owners_only(database: Database) -> None:
    assert database.folder.stat().st_mode & 0o777 == 0o700


#: A row of each table, with the columns of every schema: a schema is given those that it has.
ROWS = {
    "organizations": {"id": "org-a", "name": "a", "created_at": 1},
    "projects": {"sequence": 1, "id": "proj_a", "organization_id": "org-a", "name": "Default", "created_at": 1},
    "keys": {
        "sequence": 1, "id": "key_a", "project_id": "proj_a", "kind": "project", "name": "first", "hint": "sk-***",
        "secret_sha256": "f00", "created_at": 1, "expires_at": 2_000_000_000,
    },
    "files": {
        "sequence": 1, "id": "file-a", "project_id": "proj_a", "created_at": 1, "filename": "a.jsonl",
        "purpose": "fine-tune", "bytes": 7, "sha256": "abc", "lines": 3, "report": {"lines": 3},
    },
    "jobs": {
        "sequence": 1, "id": "ftjob-a", "project_id": "proj_a", "organization_id": "org-a", "created_at": 1,
        "status": "queued", "model": "tiny", "base_hash": "b", "training_file": "file-a", "trained_tokens": 9,
        "seed": 5, "result_files": [], "plan": {"run": {}}, "event_count": 1, "child_seq": 0, "attempt": 0,
        "progress": {"step": 1},
    },
    "events": {
        "job_id": "ftjob-a", "position": 1, "id": "ftevent-a", "created_at": 1, "level": "info", "type": "message",
        "message": "Created", "data": {},
    },
    "checkpoints": {
        "sequence": 1, "id": "ftckpt_a", "job_id": "ftjob-a", "project_id": "proj_a", "created_at": 1,
        "step_number": 2, "final": True, "name": "ft:a", "adapter_sha256": "d", "metrics": {"step": 2}, "ready_ms": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
def test_a_store_of_each_released_schema_is_migrated_with_what_is_in_it(settings: Settings, revision: str) -> None:
    engine = migrate_to(settings, revision)
    with engine.begin() as connection:
        old = MetaData()
        old.reflect(connection)
        for name, row in ROWS.items():
            table = old.tables[name]
            connection.execute(insert(table).values({key: value for key, value in row.items() if key in table.c}))
    engine.dispose()
    database = open_database(settings)
    with database.transaction() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert connection.execute(select(schema.files.c.id, schema.files.c.bytes)).all() == [("file-a", 7)]
        assert connection.execute(select(schema.jobs.c.id, schema.jobs.c.plan)).all() == [("ftjob-a", {"run": {}})]
        assert connection.execute(select(schema.checkpoints.c.name, schema.checkpoints.c.final)).all() == [
            ("ft:a", True)
        ]
        assert connection.scalars(select(schema.events.c.message)).all() == ["Created"]
        assert connection.scalars(select(schema.keys.c.id)).all() == ["key_a"]
        assert connection.scalars(select(schema.projects.c.last_start)).all() == [None]
        # what did not fit into 32 bits does now
        connection.execute(schema.jobs.update().values(trained_tokens=2**40))
    database.close()


def migrate_to(settings: Settings, revision: str) -> Engine:
    blobs.make_folders(settings.data_dir)
    url = settings.database_url
    engine = create_engine(
        f"sqlite:///{settings.data_dir / FILE}"
        if url is None
        else url.get_secret_value().replace("postgresql:", "postgresql+psycopg:")
    )
    config = Config()
    config.set_main_option("script_location", "milepost.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return engine


@pytest.mark.parametrize("database_url", POSTGRES, indirect=True)
def test_a_restart_of_postgres_is_ridden_out(database: Database, cluster: Cluster) -> None:
    def write(name: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        with database.transaction() as connection:
            connection.execute(insert(schema.organizations).values(organization(name)))
            meanwhile()
            connection.execute(select(schema.organizations))

    write("before")
    with pytest.raises(Unavailable, match="went away in the middle"):
        write("lost", cluster.stop)
    late = threading.Thread(target=write, args=("after",))  # it begins while Postgres is away
    late.start()
    cluster.start()
    late.join()
    with database.reading() as connection:
        names = connection.scalars(select(schema.organizations.c.name).order_by(schema.organizations.c.name)).all()
        assert names == ["after", "before"]


@SQLITE
def test_what_is_no_url_of_postgres_is_refused_without_showing_it(settings: Settings) -> None:
    wrong = settings.model_copy(update={"database_url": SecretStr("mysql://me:secret@host/x")})
    with pytest.raises(Invalid, match="MILEPOST_DATABASE_URL is no URL of a Postgres database") as error:
        open_database(wrong)
    assert "secret" not in error.value.message
