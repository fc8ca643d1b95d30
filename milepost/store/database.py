"""Opening the store, and the two kinds of transaction.

SQLite in WAL mode: readers never wait, writers take turns. A write transaction takes its turn at its first word
(`BEGIN IMMEDIATE`): one that began as a reader and then wants to write is refused by SQLite at once, however long
`busy_timeout` is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event

from milepost.config import Settings
from milepost.errors import Conflict
from milepost.store import blobs, room

FILE = "milepost.db"
#: How long a writer waits for its turn. The longest write is a page of a child's events.
BUSY_TIMEOUT_MS = 15_000


class Database:
    """The store of one data folder: rows here, blobs beside them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self.folder = folder

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that writes: all of it happens, or none."""
        with room.told(), self._begin("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: it sees one state of the store, and keeps no writer waiting."""
        with self._begin("BEGIN") as connection:
            yield connection

    @contextmanager
    def _begin(self, statement: str) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            connection.execution_options(begin=statement)
            with connection.begin():
                yield connection

    def close(self) -> None:
        self._engine.dispose()


def open_database(settings: Settings) -> Database:
    """Open the store in the data folder, made and migrated as needed.

    Raises `Conflict` if a newer Milepost has written it: its tables may mean what this one does not know.
    """
    folder = settings.data_dir.resolve()
    blobs.make_folders(folder)
    engine = _sqlite(folder / FILE)
    database = Database(engine, folder)
    try:
        with database.transaction() as connection:
            _migrate(connection, folder)
    except BaseException:
        engine.dispose()
        raise
    return database


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
        pool_size=8,
        max_overflow=56,  # as many as the API has threads, so that none waits for a connection
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))

    return engine


def _migrate(connection: Connection, folder: Path) -> None:
    config = Config()
    config.set_main_option("script_location", "milepost.store:migrations")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known:
        raise Conflict(
            f"The database in {folder} was written by a newer Milepost (schema {found}). "
            "Upgrade Milepost, or choose another folder with --data"
        )
    command.upgrade(config, "head")
