"""A store looked over without being changed: nothing is migrated, made or mended, and a server may run meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from milepost.errors import Unavailable
from milepost.resources.runs import ADAPTER_WEIGHTS, TRAINERS
from milepost.store import blobs
from milepost.store.database import FILE, history, shared_engine


@dataclass(frozen=True, slots=True)
class Store:
    """What is looked over: a data folder, and where its rows are if not in it. `url` has a password in it."""

    folder: Path
    url: str | None = None

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """In a transaction that can only read. `query` has a `?` for each value, and no other."""
        if self.url is not None:
            return _rows_of_postgres(self.url, query.replace("?", "%s"), values)
        file = f"{(self.folder / FILE).resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(file, uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()


@dataclass(frozen=True, slots=True)
class Postgres:
    """Which Postgres it is, how many connections it allows, and its settings by which it may lose what it answered."""

    version: str
    connections: int
    ahead_s: float
    careless: tuple[str, ...]


def newest_schema() -> str:
    """The schema that this Milepost writes."""
    return history()[0]


def schema(store: Store) -> str | None:
    """The schema of the database; None if it has none."""
    if store.url is not None and store.rows("SELECT to_regclass('alembic_version')") == [(None,)]:
        return None
    found = store.rows("SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None


def postgres(store: Store, now: float) -> Postgres:
    """Of a store in Postgres. Raises `Unavailable` with its own words if it cannot be reached."""
    [(version, connections, clock)] = store.rows(
        "SELECT current_setting('server_version'), current_setting('max_connections')::int, "
        "extract(epoch FROM clock_timestamp())::float8"
    )
    settings = store.rows(
        "SELECT name FROM pg_settings WHERE setting = 'off' AND "
        "name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY name"
    )
    return Postgres(version, connections, clock - now, tuple(name for (name,) in settings))


def faults(store: Store) -> list[str]:
    """What SQLite itself finds wrong with the database; Postgres has no such question."""
    if store.url is not None:
        return []
    said = [str(row[0]) for row in store.rows("PRAGMA integrity_check(10)")]
    strays = store.rows("PRAGMA foreign_key_check")
    lost = [f"a row of {table} names one of {parent} that is not there" for table, _, parent, _ in strays[:10]]
    return [word for word in said if word != "ok"] + lost


def newest_time(store: Store) -> int:
    """When something was last told of a job, in unix seconds; 0 if nothing was."""
    return int(store.rows("SELECT coalesce(max(created_at), 0) FROM events")[0][0])


def open_keys(store: Store, now: float) -> int:
    """How many keys open something."""
    query = "SELECT count(*) FROM keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
    return int(store.rows(query, now)[0][0])


def missing(store: Store) -> list[str]:
    """Files and checkpoints whose bytes are gone."""
    files = store.rows("SELECT id, sha256 FROM files WHERE deleted_at IS NULL")
    gone = [str(file_id) for file_id, sha256 in files if not blobs.path(store.folder, sha256).exists()]
    checkpoints = store.rows("SELECT name, adapter_sha256 FROM checkpoints WHERE deleted_at IS NULL")
    weights = ((name, blobs.adapter_folder(store.folder, sha256) / ADAPTER_WEIGHTS) for name, sha256 in checkpoints)
    return gone + [str(name) for name, path in weights if not path.exists()]


def corrupt(folder: Path) -> Iterator[Path]:
    """Blobs that are not the bytes of their names: every one is read."""
    for path in sorted((folder / blobs.FILES).glob("*")):
        if blobs.sha256_of(path) != path.name:
            yield path
    for adapter in sorted((folder / blobs.ADAPTERS).glob("[!.]*")):
        weights = adapter / ADAPTER_WEIGHTS
        if weights.exists() and blobs.sha256_of(weights) != adapter.name:
            yield weights


def strange_runs(store: Store, runs: str) -> list[Path]:
    """Folders of runs that are no job's."""
    jobs = {TRAINERS, *(row[0] for row in store.rows("SELECT id FROM jobs"))}
    return [path for path in sorted((store.folder / runs).glob("*")) if path.is_dir() and path.name not in jobs]


def _rows_of_postgres(url: str, query: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    engine = shared_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query, values or None)]
    except DBAPIError as error:
        said = str(error.orig).strip().partition("\n")[0]
        raise Unavailable(f"{engine.url.render_as_string()}: {said}") from error
    finally:
        engine.dispose()
