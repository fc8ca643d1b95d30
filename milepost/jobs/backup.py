"""A backup of all there is, taken while servers and workers run: a folder that looks like a data folder with SQLite.

First the bytes that are there, then the rows of one instant, then the bytes that came between. What is deleted
meanwhile is missed by neither: rows that name bytes which are gone by then are taken again. Of jobs that have not ended
the run directories come along, last, so that they know no less than the rows do.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select, update

from milepost.config import Settings
from milepost.errors import Conflict, NotFound
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
    RunSpec,
    Task,
)
from milepost.store import bases, blobs, snapshots, sweeping
from milepost.store.database import FILE, Database, open_database
from milepost.store.schema import checkpoints, files, jobs, upload_parts

_ATTEMPTS = 3
_CHUNK = 1024 * 1024
_HASH = re.compile("[0-9a-f]{64}")
#: Of a run directory, in this order: whatever is copied, the events that come before it are copied after it.
_RUN = (RESULT, STATE, CHECKPOINTS, EVENTS, NOTICES, PROGRESS, LOG, JOB)


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
    if target.exists():
        raise Conflict(f"{target} is there already: name a folder that a backup can make")
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    blobs.make_folders(draft)
    kept = Backup(target)
    _copy_blobs(database.folder, draft, _written(database.folder), kept)
    for _ in range(_ATTEMPTS):
        snapshots.take(database, draft)
        needed = _needed(draft)
        kept.damaged = _copy_blobs(database.folder, draft, needed, kept)
        if not kept.damaged:
            break
    kept.jobs = _copy_runs(database.folder, draft)
    _sync(draft)
    draft.rename(target)
    blobs.sync(target.parent)
    return kept


def restore(folder: Path, settings: Settings) -> Database:
    """Make a store of a backup: in the settings' data folder and, if one is named, their database, both empty yet."""
    if not (folder / FILE).exists():
        raise NotFound(f"There is no backup in {folder}: it has no {FILE}")
    database = snapshots.put_back(folder, settings)
    _copy_blobs(folder, database.folder, _written(folder), Backup(database.folder))
    held = {"lease_owner": "local", "lease_until": 0.0}  # nobody's: a server alone finds them so, and workers as well
    with database.transaction() as connection:
        connection.execute(update(jobs).where(jobs.c.lease_owner.is_not(None)).values(held))
    if (folder / runs.RUNS).exists():
        shutil.copytree(folder / runs.RUNS, database.folder / runs.RUNS)
        for job in (database.folder / runs.RUNS).glob(f"*/*/{JOB}"):
            _move(job, database.folder, settings)
    _sync(database.folder)
    return database


# ------------------------------------------------------------------------------------------------ bytes

#: A blob by its folder in the data folder and its name there; an adapter is a folder of files.
_Name = tuple[str, str]


def _written(folder: Path) -> list[_Name]:
    kinds = (blobs.FILES, blobs.ADAPTERS)
    return [(kind, path.name) for kind in kinds for path in (folder / kind).iterdir() if _HASH.fullmatch(path.name)]


def _needed(draft: Path) -> list[_Name]:
    """What the rows of a snapshot name."""
    with closing(open_database(Settings(data_dir=draft))) as copy, copy.reading() as connection:
        hashes = {
            *connection.scalars(select(files.c.sha256)),
            *connection.scalars(select(upload_parts.c.sha256)),
        }
        adapters = set(connection.scalars(select(checkpoints.c.adapter_sha256)))
        return [
            *((blobs.FILES, each) for each in sweeping.needed(connection, hashes)),
            *((blobs.ADAPTERS, each) for each in sweeping.needed_adapters(connection, adapters, time.time())),
        ]


def _copy_blobs(source: Path, target: Path, names: list[_Name], kept: Backup) -> list[str]:
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
        return _copy_file(source, target)
    target.mkdir()
    found = {path.name: _copy_file(path, target / path.name) for path in source.iterdir()}
    return sum(size for size, _ in found.values()), found[ADAPTER_WEIGHTS][1]


def _copy_file(source: Path, target: Path) -> tuple[int, str]:
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


def _move(job: Path, folder: Path, settings: Settings) -> None:
    """Have a run's job.json name the bytes where they lie now."""
    spec = RunSpec.model_validate_json(job.read_bytes())
    validation, adapter = spec.validation, spec.adapter
    moved = spec.model_copy(
        update={
            "base": spec.base.model_copy(update={"path": str(bases.folder(settings, spec.base.name))}),
            "training": spec.training.model_copy(update={"path": str(blobs.path(folder, spec.training.hash))}),
            "validation": validation
            and validation.model_copy(update={"path": str(blobs.path(folder, validation.hash))}),
            "adapter": adapter and adapter.model_copy(update={"path": str(blobs.adapter_folder(folder, adapter.hash))}),
        }
    )
    blobs.write_whole(job, moved.model_dump_json(indent=1))


def _sync(folder: Path) -> None:
    """On the disk for certain: files, then the folders that name them."""
    for path in folder.rglob("*"):
        blobs.sync(path)
    blobs.sync(folder)
