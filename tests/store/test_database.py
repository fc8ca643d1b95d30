import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, select, text

from milepost.config import Settings
from milepost.errors import Conflict
from milepost.store import schema
from milepost.store.database import Database, open_database


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


def test_a_commit_is_on_disk(database: Database) -> None:
    with database.reading() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_the_data_folder_is_its_owners_only(database: Database) -> None:
    assert database.folder.stat().st_mode & 0o777 == 0o700
