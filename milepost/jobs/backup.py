"""A backup of all there is, taken while servers and workers run: a folder that looks like a data folder with SQLite.

First the bytes that are there, then the rows of one instant, then the bytes that came between. What is deleted
meanwhile is missed by neither: rows that name bytes which are gone by then are taken again. Of jobs that have not ended
the run directories come along, last, so that they know no less than the rows do.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from milepost import __version__
from milepost.config import Settings
from milepost.jobs import runs
from milepost.resources.jobs import NEXT
from milepost.resources.runs import (
    ADAPTER_WEIGHTS,
    CHECKPOINTS,
    EVENTS,
    JOB,
    LOG,
    NOTICES,
    PROGRESS,
    RESULT,
    STATE,
    Task,
)
from milepost.store import blobs, drafts, snapshots, sweeping
from milepost.store.database import FILE, Database, open_database
from milepost.store.schema import checkpoints, files, jobs, upload_parts

#: What tells of the other files: written last.
CONTENTS = "backup.json"

_ATTEMPTS = 3
_CHUNK = 1024 * 1024
_HASH = re.compile("[0-9a-f]{64}")
#: Of a run directory, in this order: whatever is copied, the events that come before it are copied after it.
_RUN = (RESULT, STATE, CHECKPOINTS, EVENTS, NOTICES, PROGRESS, LOG, JOB)


class Contents(BaseModel):
    """The sha256 of every file of a backup but those that are named by it, by its path in the folder."""

    model_config = ConfigDict(frozen=True)

    milepost: str
    sha256: dict[str, str]


@dataclass(slots=True)
class Backup:
    """What was kept. `damaged` are the sha256 of bytes that the rows name and the data folder has no more, or not as
    their hash promises.
    """

    folder: Path
    bytes: int = 0
    blobs: int = 0
    jobs: int = 0
    damaged: list[str] = field(default_factory=list)


def save(database: Database, target: Path) -> Backup:
    """Make the folder `target`: it is whole or absent."""
    target = target.absolute()
    drafts.require_free(target)
    with drafts.beside(target) as draft:
        blobs.make_folders(draft)
        kept = Backup(target)
        copy_blobs(database.folder, draft, _written(database.folder), kept)
        for _ in range(_ATTEMPTS):
            snapshots.take(database, draft)
            kept.damaged = copy_blobs(database.folder, draft, needed(draft), kept)
            if not kept.damaged:
                break
        kept.jobs = _copy_runs(database.folder, draft)
        _list_contents(draft)
        drafts.publish(draft, target)
    return kept


def _list_contents(draft: Path) -> None:
    listed = [draft / FILE, *(path for path in sorted((draft / runs.RUNS).rglob("*")) if path.is_file())]
    sha256 = {str(path.relative_to(draft)): blobs.sha256_of(path) for path in listed}
    blobs.write_whole(draft / CONTENTS, Contents(milepost=__version__, sha256=sha256).model_dump_json(indent=1))


# ------------------------------------------------------------------------------------------------ bytes

#: A blob by its folder in the data folder and its name there; an adapter is a folder of files.
Name = tuple[str, str]


def _written(folder: Path) -> list[Name]:
    kinds = (blobs.FILES, blobs.ADAPTERS)
    return [(kind, path.name) for kind in kinds for path in (folder / kind).iterdir() if _HASH.fullmatch(path.name)]


def needed(draft: Path) -> list[Name]:
    """The bytes that the rows of a snapshot name."""
    with closing(open_database(Settings(data_dir=draft))) as copy, copy.reading() as connection:
        of_files = {*connection.scalars(select(files.c.sha256)), *connection.scalars(select(upload_parts.c.sha256))}
        of_checkpoints = set(connection.scalars(select(checkpoints.c.adapter_sha256)))
        found: list[Name] = []
        for some in sweeping.batches(list(of_files)):
            found += ((blobs.FILES, each) for each in sweeping.needed(connection, some))
        for some in sweeping.batches(list(of_checkpoints)):
            found += ((blobs.ADAPTERS, each) for each in sweeping.needed_adapters(connection, some, time.time()))
        return found


def copy_blobs(source: Path, target: Path, names: list[Name], kept: Backup) -> list[str]:
    """Copy those that are not there yet; returns the hashes of those that cannot be had whole."""
    damaged = []
    for kind, name in names:
        copy = target / kind / name
        if copy.exists():
            continue
        draft = copy.with_name(f".{name}")
        try:
            size, sha256 = _copy_blob(source / kind / name, draft)
        except FileNotFoundError:
            size, sha256 = 0, ""
        if sha256 != name:
            _drop(draft)
            damaged.append(name)
            continue
        draft.rename(copy)
        kept.blobs += 1
        kept.bytes += size
    return damaged


def _drop(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft)
    else:
        draft.unlink(missing_ok=True)


def _copy_blob(source: Path, target: Path) -> tuple[int, str]:
    """(bytes, the sha256 it has); of an adapter, that of its weights."""
    if not source.is_dir():
        return copy_file(source, target)
    target.mkdir()
    found = {path.name: copy_file(path, target / path.name) for path in source.iterdir()}
    return sum(size for size, _ in found.values()), found[ADAPTER_WEIGHTS][1]


def copy_file(source: Path, target: Path) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as stream, target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return size, digest.hexdigest()


# ------------------------------------------------------------------------------------------------ runs


def _copy_runs(folder: Path, draft: Path) -> int:
    with closing(open_database(Settings(data_dir=draft))) as copy, copy.reading() as connection:
        unfinished = connection.scalars(select(jobs.c.id).where(jobs.c.status.in_(list(NEXT)))).all()
    for job_id in unfinished:
        for task in Task:
            source = runs.directory(folder, job_id, task)
            if (source / JOB).exists():
                _copy_run(source, runs.directory(draft, job_id, task))
    return len(unfinished)


def _copy_run(source: Path, target: Path) -> None:
    """What is published there is whole and changes no more, but may go: the older of two states, for one."""
    target.mkdir(parents=True)
    for name in _RUN:
        for path in _parts(source / name):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError, shutil.Error):
                if path.is_dir():
                    draft = copy.with_name(f".{copy.name}.draft")
                    shutil.copytree(path, draft)
                    draft.rename(copy)
                else:
                    shutil.copyfile(path, copy)


def _parts(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (each for each in sorted(path.iterdir()) if not each.name.startswith("."))
    elif path.exists():
        yield path
