import sqlite3
import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, insert, select, text

from milepost.config import Settings
from milepost.errors import Conflict
from milepost.store import blobs, schema
from milepost.store.database import FILE, Database, open_database

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


@SQLITE
def test_a_store_of_the_first_schema_is_migrated_with_what_is_in_it(settings: Settings) -> None:
    migrate_to(settings, "0001")
    with sqlite3.connect(settings.data_dir / FILE) as old:
        old.execute("PRAGMA foreign_keys=ON")
        old.execute("INSERT INTO organizations VALUES ('org-a', 'a', 1)")
        old.execute("INSERT INTO projects VALUES (1, 'proj_a', 'org-a', 'Default', 1)")
        old.execute("INSERT INTO keys VALUES (1, 'key_a', 'proj_a', 'project', 'first', 'sk-***', 'f00', 1, NULL)")
        old.execute("INSERT INTO files VALUES (1, 'file-a', 'proj_a', 1, 'a.jsonl', 'fine-tune', 7, 'abc', 3, NULL)")
        jobs = "'ftjob-a', 'proj_a', 'org-a', 1, 'queued', 'tiny', 'b', 'file-a', NULL, NULL, NULL, NULL, NULL, NULL"
        old.execute(f"INSERT INTO jobs VALUES (1, {jobs}, 5, '[]', NULL, '{{}}', 0, 0, 0, NULL, NULL)")
    old.close()
    database = open_database(settings)
    with database.reading() as connection:
        assert connection.execute(select(schema.files.c.id, schema.files.c.bytes)).all() == [("file-a", 7)]
        assert connection.scalars(select(schema.jobs.c.id)).all() == ["ftjob-a"]
        assert connection.scalars(select(schema.keys.c.id)).all() == ["key_a"]
        assert connection.scalars(select(schema.projects.c.archived_at)).all() == [None]
    database.close()


def migrate_to(settings: Settings, revision: str) -> None:
    blobs.make_folders(settings.data_dir)
    engine = create_engine(f"sqlite:///{settings.data_dir / FILE}")
    config = Config()
    config.set_main_option("script_location", "milepost.store:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
