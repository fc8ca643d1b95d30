"""Room on the disk: how much is left, and a reserve, from which the database can still write why nothing else is."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import OperationalError

from milepost.errors import Full
from milepost.resources.runs import NO_ROOM

log = logging.getLogger(__name__)

RESERVE = "reserve"
#: Some transactions of the write-ahead log.
_RESERVE_BYTES = 1024 * 1024
#: SQLite's own words (https://sqlite.org/rescode.html#full); the driver has no class for it.
_FULL = "database or disk is full"


def free_bytes(folder: Path) -> int:
    """What is left for us on the disk of a folder."""
    return shutil.disk_usage(folder).free


def set_aside(folder: Path) -> None:
    """Keep the reserve, unless it is kept or there is not even room for it."""
    reserve = folder / RESERVE
    if reserve.exists() or free_bytes(folder) < 2 * _RESERVE_BYTES:
        return
    descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
    except OSError:  # a file system that cannot: it goes without
        reserve.unlink()
    finally:
        os.close(descriptor)


def break_into(folder: Path) -> None:
    """Give the reserve back to the disk: what is written next says that it is full."""
    if (folder / RESERVE).exists():
        log.warning("the disk of %s is full: its reserve is given up until there is room again", folder)
        (folder / RESERVE).unlink()


def is_lacking(error: BaseException) -> bool:
    """Whether an error says that the disk is full."""
    return isinstance(error, Full) or (isinstance(error, OSError) and error.errno in NO_ROOM)


@contextmanager
def told() -> Iterator[None]:
    """A transaction, where the disk may turn out to be full: then nothing of it was kept, and it raises `Full`."""
    try:
        yield
    except OperationalError as error:
        if _FULL not in str(error.orig):
            raise
        raise Full(
            "The server's disk has no room for this (the database could not grow); nothing of it was kept. Free some "
            "in its data folder, then send it again"
        ) from error
