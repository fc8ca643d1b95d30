"""A store made of a backup: whole, or not at all.

Everything is written beside the data folder, compared with what the backup says of it, and put in place last. Rows that
go to Postgres come in one transaction, at whose end the folder is put in place; one that is cut between the two leaves
`UNFINISHED` in the folder: no server opens it, and the next restore finishes it or begins anew.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import update

from milepost.config import Settings
from milepost.errors import Corrupt, Full, NotFound
from milepost.jobs import runs
from milepost.jobs.backup import CONTENTS, Backup, Contents, copy_blobs, copy_file, needed
from milepost.resources.runs import JOB, NO_ROOM, RunSpec
from milepost.store import bases, blobs, drafts, inspection, keys, snapshots
from milepost.store.database import FILE, UNFINISHED, Database, open_database
from milepost.store.schema import jobs

_SHOWN = 5


def restore(folder: Path, settings: Settings, *, despite_damage: bool = False) -> list[str]:
    """Make a store of a backup: in the settings' data folder and, if one is named, their database, both empty yet.

    Raises `Corrupt`, and makes nothing, if the backup is not what was kept; `despite_damage` leaves out the files and
    adapters that are not, and returns their names.
    """
    if not (folder / FILE).exists():
        raise NotFound(f"There is no backup in {folder}: it has no {FILE}")
    target = settings.data_dir.resolve()
    try:
        with drafts.beside(target) as draft:
            if _finish(target, draft, settings):
                return []
            drafts.require_free(target)
            damaged = _fill(draft, folder, target, settings)
            if damaged and not despite_damage:
                raise _damaged(folder, damaged)
            if settings.database_url is None:
                drafts.publish(draft, target)
            else:
                _publish_shared(draft, target, settings)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise Full(f"There is no room for the backup in {target.parent}: nothing was restored. Free some") from error
    return damaged


def _fill(draft: Path, folder: Path, target: Path, settings: Settings) -> list[str]:
    """Make the data folder that will lie in `target`; returns what of the backup is damaged, and left out."""
    expected = _contents(folder)
    _copy_rows(folder / FILE, draft, expected)
    blobs.make_folders(draft)
    damaged = copy_blobs(folder, draft, needed(draft), Backup(draft))
    damaged += _copy_runs(folder, draft, expected)
    for job in (draft / runs.RUNS).glob(f"*/*/{JOB}"):
        _move(job, target, settings)
    return damaged


def _contents(folder: Path) -> Contents | None:
    """None of a backup that was made before there was such a list."""
    try:
        return Contents.model_validate_json((folder / CONTENTS).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _damaged(folder, [CONTENTS]) from error


def _copy_rows(source: Path, draft: Path, expected: Contents | None) -> None:
    """The database, of this schema from here on, its jobs nobody's: a server alone finds them so, and workers too."""
    _, sha256 = copy_file(source, draft / FILE)
    is_other = expected is not None and expected.sha256.get(FILE) != sha256
    if is_other:
        faults = [f"its sha256 is {sha256}"]
    else:
        try:
            faults = inspection.faults(inspection.Store(draft))
        except sqlite3.DatabaseError as error:
            faults = [str(error)]
    if faults:
        raise Corrupt(f"{source} is damaged ({'; '.join(faults)}): nothing was restored. Take another backup")
    held = {"lease_owner": "local", "lease_until": 0.0}
    with closing(open_database(Settings(data_dir=draft))) as database, database.transaction() as connection:
        connection.execute(update(jobs).where(jobs.c.lease_owner.is_not(None)).values(held))


def _copy_runs(folder: Path, draft: Path, expected: Contents | None) -> list[str]:
    """Copy the run directories; returns the files that are not what they were."""
    there = {str(path.relative_to(folder)) for path in (folder / runs.RUNS).rglob("*") if path.is_file()}
    listed = {} if expected is None else {name: sha for name, sha in expected.sha256.items() if name != FILE}
    damaged = sorted(listed.keys() - there)
    for name in sorted(there):
        copy = draft / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        _, sha256 = copy_file(folder / name, copy)
        if expected is not None and listed.get(name) != sha256:
            copy.unlink()
            damaged.append(name)
    return damaged


def _move(job: Path, target: Path, settings: Settings) -> None:
    """Have a run's job.json name the bytes where they will lie."""
    spec = RunSpec.model_validate_json(job.read_bytes())
    validation, adapter = spec.validation, spec.adapter
    moved = spec.model_copy(
        update={
            "base": spec.base.model_copy(update={"path": str(bases.folder(settings, spec.base.name))}),
            "training": spec.training.model_copy(update={"path": str(blobs.path(target, spec.training.hash))}),
            "validation": validation
            and validation.model_copy(update={"path": str(blobs.path(target, validation.hash))}),
            "adapter": adapter and adapter.model_copy(update={"path": str(blobs.adapter_folder(target, adapter.hash))}),
        }
    )
    blobs.write_whole(job, moved.model_dump_json(indent=1))


# ------------------------------------------------------------------------------------------------ Postgres


def _publish_shared(draft: Path, target: Path, settings: Settings) -> None:
    with closing(_shared(draft, settings)) as database, database.transaction() as connection:
        with closing(open_database(Settings(data_dir=draft))) as copy, copy.reading() as source:
            organization = snapshots.put_back(source, connection)
        for name in _of_sqlite(draft):
            name.unlink()
        blobs.write_whole(draft / UNFINISHED, organization)
        drafts.publish(draft, target)
    _forget_mark(target)


def _finish(target: Path, draft: Path, settings: Settings) -> bool:
    """See to what an earlier restore has left: whether its rows were committed, and nothing else was left to do."""
    if not (target / UNFINISHED).exists():
        return False
    with closing(_shared(draft, settings)) as database:
        is_committed = keys.organization(database) == (target / UNFINISHED).read_text(encoding="utf-8")
    if is_committed:
        _forget_mark(target)
        return True
    left = draft / "left"
    target.rename(left)  # in one step, so that it never looks like another's folder
    for path in draft.iterdir():
        shutil.rmtree(path)
    return False


def _shared(draft: Path, settings: Settings) -> Database:
    """The shared database, before there is a data folder to it."""
    return open_database(settings.model_copy(update={"data_dir": draft}))


def _of_sqlite(draft: Path) -> Iterator[Path]:
    return draft.glob(f"{FILE}*")


def _forget_mark(target: Path) -> None:
    (target / UNFINISHED).unlink()
    blobs.sync(target)


def _damaged(folder: Path, names: list[str]) -> Corrupt:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return Corrupt(
        f"The backup in {folder} is damaged: {shown} missing, or not as kept. Nothing was restored. Take another "
        "backup, or restore all but these with --despite-damage"
    )
