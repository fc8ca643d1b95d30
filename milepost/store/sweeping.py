"""What is gone is removed: bytes that nothing needs, files and uploads whose time is over, keys of old requests.

Nothing waits for it: whoever reads a row compares its times with the clock. It only gives the disk its room back.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from pathlib import Path

from sqlalchemy import Connection, delete, exists, or_, select, update

from milepost.resources.jobs import NEXT
from milepost.resources.uploads import UploadStatus
from milepost.store import blobs
from milepost.store.database import Database
from milepost.store.schema import checkpoints, files, idempotency_keys, jobs, upload_parts, uploads

log = logging.getLogger(__name__)

#: How long the answer to a request with an Idempotency-Key is kept at least; who tries again does so in minutes.
KEY_LIFETIME_S = 24 * 3600
#: How long the weights of a dropped checkpoint are kept: who found its name a moment before reads them yet.
ADAPTER_GRACE_S = 600
_EVERY_S = 60.0
_HOUR_S = 3600.0
_HASH = re.compile("[0-9a-f]{64}")
_AT_ONCE = 500  # a statement holds 32,766 parameters at most; others wait for their turn to write


def keep_sweeping(database: Database, stop: threading.Event, now: Callable[[], float] = time.time) -> None:
    """Sweep every minute until `stop` is set, and outlive whatever goes wrong with one of them."""
    for minute in count():
        try:
            sweep(database, now())
            if minute % 60 == 0:
                drop_strangers(database, before=now() - _HOUR_S)
        except Exception:
            log.exception("what is gone could not be swept; it is tried again in %d s", _EVERY_S)
        if stop.wait(_EVERY_S):
            return


def sweep(database: Database, now: float) -> None:
    """Mark what has expired, then remove the bytes: they are not to be lost to a transaction that is rolled back."""
    with database.transaction() as connection:
        freed = [*_expire_files(connection, now), *_expire_uploads(connection, now)]
        connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at <= int(now) - KEY_LIFETIME_S))
    drop(database, freed)
    drop_adapters(database, now)


def drop(database: Database, hashes: Iterable[str]) -> None:
    """Remove those of these blobs that no file, no unfinished job and no pending upload needs.

    In a transaction that writes, so that nobody makes a file of a blob that is about to go.
    """
    for some in batches(list(dict.fromkeys(hashes))):
        with database.transaction() as connection:
            for sha256 in set(some) - needed(connection, some):
                blobs.path(database.folder, sha256).unlink(missing_ok=True)


def drop_adapters(database: Database, now: float) -> None:
    """Remove the weights of checkpoints that their jobs did not keep, if no other checkpoint is of the same weights.

    Of a job that keeps all, deleted checkpoints leave their weights.
    """
    of_jobs = checkpoints.join(jobs, jobs.c.id == checkpoints.c.job_id)
    is_dropped = jobs.c.plan["run"]["keep_checkpoints"].as_integer().is_not(None)
    dropped = select(checkpoints.c.adapter_sha256).select_from(of_jobs).where(is_dropped)
    dropped = dropped.where(checkpoints.c.deleted_at <= int(now) - ADAPTER_GRACE_S)
    with database.reading() as connection:
        hashes = [
            sha256
            for sha256 in set(connection.scalars(dropped))
            if blobs.adapter_folder(database.folder, sha256).exists()
        ]
    for some in batches(hashes):
        with database.transaction() as connection:
            for sha256 in set(some) - needed_adapters(connection, some, now):
                with suppress(FileNotFoundError):  # another server has swept it
                    blobs.drop_adapter(database.folder, sha256)


def drop_strangers(database: Database, before: float = inf) -> None:
    """Remove the blobs whose rows a crash or a full disk has prevented.

    Only for who holds the data folder's lock; of a server that runs, only those that were written `before`: the row of
    a newer one may be about to come.
    """
    drop(database, list(_written(database.folder / blobs.FILES, before)))


def _written(folder: Path, before: float) -> Iterator[str]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # somebody drops it in this very moment
            if _HASH.fullmatch(path.name) and path.stat().st_mtime < before:
                yield path.name


def _expire_files(connection: Connection, now: float) -> Sequence[str]:
    over = update(files).where(files.c.deleted_at.is_(None), files.c.expires_at <= int(now))
    return connection.scalars(over.values(deleted_at=files.c.expires_at).returning(files.c.sha256)).all()


def _expire_uploads(connection: Connection, now: float) -> Sequence[str]:
    over = update(uploads).where(uploads.c.status == UploadStatus.PENDING, uploads.c.expires_at <= int(now))
    ids = connection.scalars(over.values(status=UploadStatus.EXPIRED).returning(uploads.c.id)).all()
    return [
        sha256
        for some in batches(ids)
        for sha256 in connection.scalars(select(upload_parts.c.sha256).where(upload_parts.c.upload_id.in_(some)))
    ]


def needed(connection: Connection, hashes: Collection[str]) -> set[str]:
    """Those of these blobs that a file, an unfinished job or a pending upload needs."""
    unfinished = exists().where(
        jobs.c.status.in_(list(NEXT)), or_(jobs.c.training_file == files.c.id, jobs.c.validation_file == files.c.id)
    )
    of_files = select(files.c.sha256).where(files.c.sha256.in_(hashes), or_(files.c.deleted_at.is_(None), unfinished))
    of_uploads = (
        select(upload_parts.c.sha256)
        .join(uploads, uploads.c.id == upload_parts.c.upload_id)
        .where(upload_parts.c.sha256.in_(hashes), uploads.c.status == UploadStatus.PENDING)
    )
    return {*connection.scalars(of_files), *connection.scalars(of_uploads)}


def needed_adapters(connection: Connection, hashes: Collection[str], now: float) -> set[str]:
    """Those of a checkpoint that is there or has just gone, or that a job goes on from, be it finished: it may be
    replayed.
    """
    is_there = or_(checkpoints.c.deleted_at.is_(None), checkpoints.c.deleted_at > int(now) - ADAPTER_GRACE_S)
    is_parent = exists().where(jobs.c.parent_checkpoint_id == checkpoints.c.id)
    needed = select(checkpoints.c.adapter_sha256).where(
        checkpoints.c.adapter_sha256.in_(hashes), or_(is_there, is_parent)
    )
    return set(connection.scalars(needed))


def batches(all_of: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many as one statement may name."""
    return (all_of[start : start + _AT_ONCE] for start in range(0, len(all_of), _AT_ONCE))
