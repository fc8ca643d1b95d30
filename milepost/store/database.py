"""Opening the store, and the kinds of transaction.

On SQLite (WAL mode) readers never wait and writers take turns. A write transaction takes its turn at its first word
(`BEGIN IMMEDIATE`): one that began as a reader and then wants to write is refused by SQLite at once, however long
`busy_timeout` is. On Postgres writers take turns too, by a lock that the transaction holds: what is read in a
transaction that writes stays true until it commits, on both, and nothing needs to be tried again. Only transactions
that say they hold one row alone do not wait for a turn there.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, OperationalError

from milepost.config import Settings
from milepost.errors import Conflict, Invalid, Unavailable
from milepost.store import blobs, room

log = logging.getLogger(__name__)

FILE = "milepost.db"
#: In a data folder whose rows may not have come to Postgres: a restore was cut in its last moment.
UNFINISHED = "restoring"
#: How long a writer waits for its turn. A turn is some fsyncs long, and a slow disk may take seconds for each.
BUSY_TIMEOUT_MS = 60_000
#: How long a transaction waits for a Postgres that is away, before it has begun. A restart takes seconds.
RIDE_OUT_S = 30.0
_KNOCK_S = 0.25
#: A process that is frozen in the middle of a transaction does not keep the others waiting for longer.
_IDLE_TIMEOUT_MS = 60_000
#: As many as the API has threads, so that none waits for a connection.
_POOL = {"pool_size": 8, "max_overflow": 56}


class Mode(StrEnum):
    """What a transaction is for: writing, writing rows that it has locked itself, or reading."""

    WRITE = "write"
    ROW = "row"
    READ = "read"


#: The first words of a transaction. The number is the name of the turn, as Postgres has it.
_FIRST_WORDS = {
    "sqlite": {Mode.WRITE: "BEGIN IMMEDIATE", Mode.ROW: "BEGIN IMMEDIATE", Mode.READ: "BEGIN"},
    "postgresql": {
        Mode.WRITE: "SELECT pg_advisory_xact_lock(7701)",
        Mode.READ: "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    },
}


class Database:
    """The store of one data folder: rows here or in Postgres, blobs beside them."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self.folder = folder

    @property
    def is_shared(self) -> bool:
        """Whether other processes may serve it and work for it too."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that writes: all of it happens, or none."""
        with room.told(), self._begin(Mode.WRITE) as connection:
            yield connection

    @contextmanager
    def row_transaction(self) -> Iterator[Connection]:
        """A transaction that writes to rows which its first statement locks, and depends on no other: it takes no turn
        where it can do without.
        """
        with room.told(), self._begin(Mode.ROW) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads: it sees one state of the store, and keeps no writer waiting."""
        with self._begin(Mode.READ) as connection:
            yield connection

    @contextmanager
    def _begin(self, mode: Mode) -> Iterator[Connection]:
        with ExitStack() as opened:
            connection = self._begun(mode, opened)
            try:
                yield connection
                connection.commit()
            except DataError as error:  # Postgres only: SQLite keeps whatever it is given
                raise Invalid(
                    "A text in the request has a NUL character, or a number has more than 64 bits, which this server's "
                    "database cannot keep"
                ) from error
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                raise Unavailable("The database went away in the middle of this. Try again") from error

    def _begun(self, mode: Mode, opened: ExitStack) -> Connection:
        """A connection that has begun; where the database is away, it is waited for: nothing has been done yet."""
        deadline = time.monotonic() + RIDE_OUT_S
        is_waiting = False
        while True:
            try:
                with ExitStack() as attempt:
                    connection = attempt.enter_context(self._engine.connect())
                    connection.execution_options(mode=mode)
                    connection.begin()
                    opened.push(attempt.pop_all())
                    return connection
            except OperationalError as error:
                if _is_long_turn(error):
                    raise Unavailable(
                        f"Others have been writing to the database for {BUSY_TIMEOUT_MS // 1000} s; nothing was kept. "
                        "Try again"
                    ) from error
                if not self.is_shared:
                    raise
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"The database {self._engine.url.render_as_string()} does not answer "
                        f"({str(error.orig).strip()}); nothing was kept. Try again when it is back"
                    ) from error
                if not is_waiting:
                    log.warning("the database is away, and waited for: %s", str(error.orig).strip())
                is_waiting = True
                time.sleep(_KNOCK_S)

    def copy_to(self, file: Path) -> None:
        """Write one state of a SQLite store into a file, while others write."""
        with closing(sqlite3.connect(file)) as copy, closing(sqlite3.connect(self.folder / FILE)) as source:
            source.backup(copy)

    def close(self) -> None:
        self._engine.dispose()


def open_database(settings: Settings) -> Database:
    """Open the store in the data folder, made and migrated as needed.

    Raises `Conflict` if a newer Milepost has written it: its tables may mean what this one does not know.
    """
    folder = settings.data_dir.resolve()
    if (folder / UNFINISHED).exists():
        raise Conflict(f"A restore into {folder} was interrupted: run the same `milepost restore` again, which ends it")
    blobs.make_folders(folder)
    url = settings.database_url
    engine = _sqlite(folder / FILE) if url is None else shared_engine(url.get_secret_value())
    database = Database(engine, folder)
    try:
        with database.transaction() as connection:
            _migrate(connection, str(folder) if url is None else engine.url.render_as_string())
    except BaseException:
        engine.dispose()
        raise
    return database


def exists(settings: Settings) -> bool:
    """Whether there is a store to open already: a database that is named is taken to be one."""
    return settings.database_url is not None or (settings.data_dir / FILE).exists()


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
        **_POOL,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late; ours is below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "begin", _say_first_words)
    return engine


def shared_engine(url: str) -> Engine:
    """Of a Postgres. Nothing is sent before it is used."""
    limits = f"-c lock_timeout={BUSY_TIMEOUT_MS} -c idle_in_transaction_session_timeout={_IDLE_TIMEOUT_MS}"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _not_postgres() from None
    if parsed.drivername not in {"postgresql", "postgresql+psycopg"}:
        raise _not_postgres()
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"connect_timeout": 5, "options": limits, "application_name": "milepost"},
        pool_pre_ping=True,  # after a restart of Postgres each pooled connection is dead
        **_POOL,
    )
    event.listen(engine, "begin", _say_first_words)
    return engine


def _not_postgres() -> Invalid:
    return Invalid(
        "MILEPOST_DATABASE_URL is no URL of a Postgres database, such as postgresql://user:password@host/milepost. "
        "Leave it out to use SQLite in the data folder",
        param="MILEPOST_DATABASE_URL",
    )


def _say_first_words(connection: Connection) -> None:
    words = _FIRST_WORDS[connection.dialect.name].get(connection.get_execution_options().get("mode", Mode.READ))
    if words is not None:
        connection.exec_driver_sql(words)


def _is_long_turn(error: OperationalError) -> bool:
    """Whether others kept their turn for too long: a lock was not to be had, or SQLite was busy."""
    return (
        getattr(error.orig, "sqlstate", None) == "55P03"
        or getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    )


def migrations() -> Config:
    """Where Alembic finds the tables' history."""
    config = Config()
    config.set_main_option("script_location", "milepost.store:migrations")
    return config


@cache
def history() -> tuple[str, ...]:
    """Every schema there has been, newest first. To read them takes longer than to open a store that has the newest."""
    return tuple(script.revision for script in ScriptDirectory.from_config(migrations()).walk_revisions())


def _migrate(connection: Connection, where: str) -> None:
    found = MigrationContext.configure(connection).get_current_revision()
    newest, *_ = history()
    if found == newest:
        return
    if found is not None and found not in history():
        raise Conflict(
            f"The database in {where} was written by a newer Milepost (schema {found}). "
            "Upgrade Milepost, or choose another folder with --data"
        )
    config = migrations()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
