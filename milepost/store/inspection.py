"""A store looked over without being changed: nothing is migrated, made or mended, and a server may run meanwhile."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from milepost.resources.runs import ADAPTER_WEIGHTS, TRAINERS
from milepost.store import blobs
from milepost.store.database import FILE, history


def newest_schema() -> str:
    """The schema that this Milepost writes."""
    return history()[0]


def schema(folder: Path) -> str | None:
    """The schema of the database; None if it has none."""
    found = _rows(folder, "SELECT version_num FROM alembic_version")
    return str(found[0][0]) if found else None


def faults(folder: Path) -> list[str]:
    """What SQLite itself finds wrong with the database."""
    said = [str(row[0]) for row in _rows(folder, "PRAGMA integrity_check(10)")]
    strays = _rows(folder, "PRAGMA foreign_key_check")
    lost = [f"a row of {table} names one of {parent} that is not there" for table, _, parent, _ in strays[:10]]
    return [word for word in said if word != "ok"] + lost


def newest_time(folder: Path) -> int:
    """When something was last told of a job, in unix seconds; 0 if nothing was."""
    return int(_rows(folder, "SELECT coalesce(max(created_at), 0) FROM events")[0][0])


def open_keys(folder: Path, now: float) -> int:
    """How many keys open something."""
    query = "SELECT count(*) FROM keys WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
    return int(_rows(folder, query, now)[0][0])


def missing(folder: Path) -> list[str]:
    """Files and checkpoints whose bytes are gone."""
    files = _rows(folder, "SELECT id, sha256 FROM files WHERE deleted_at IS NULL")
    gone = [str(file_id) for file_id, sha256 in files if not blobs.path(folder, sha256).exists()]
    checkpoints = _rows(folder, "SELECT name, adapter_sha256 FROM checkpoints WHERE deleted_at IS NULL")
    weights = ((name, blobs.adapter_folder(folder, sha256) / ADAPTER_WEIGHTS) for name, sha256 in checkpoints)
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


def strange_runs(folder: Path, runs: str) -> list[Path]:
    """Folders of runs that are no job's."""
    jobs = {TRAINERS, *(row[0] for row in _rows(folder, "SELECT id FROM jobs"))}
    return [path for path in sorted((folder / runs).glob("*")) if path.is_dir() and path.name not in jobs]


def _rows(folder: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{(folder / FILE).resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute(query, values).fetchall()
