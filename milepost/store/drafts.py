"""Folders that appear whole: made beside their place under another name, fsynced, and renamed last.

What a crash leaves of one is found and removed by the next who makes the same. A lock on it, gone with its process,
says whether somebody is at it still.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.errors import Conflict, Invalid
from milepost.resources.runs import NO_ROOM
from milepost.store import blobs

_TAKEN = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder to make `target` in; gone afterwards, unless it was published."""
    draft = target.with_name(f".{target.name}.partial")
    try:
        blobs.make_folder(target.parent)
        draft.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise Invalid(
            f"{target} cannot be made ({error.strerror}): it is written beside its place, so this user must be able to "
            f"write in {target.parent}"
        ) from error
    held = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _take(held, draft, target)
        _empty(draft)
        try:
            yield draft
        finally:
            if _is_it(held, draft):  # published, it has another name, and another may be at one of this
                shutil.rmtree(draft, ignore_errors=True)
    finally:
        os.close(held)


def require_free(target: Path) -> None:
    """Raises unless a folder can be published there: in place of nothing, or of an empty folder."""
    if target.is_dir() and os.path.ismount(target):
        raise Invalid(
            f"{target} is where a disk is mounted, and cannot be put in place in one step: name a folder in it, such "
            f"as {target / 'milepost'}"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise taken(target)


def publish(draft: Path, target: Path) -> None:
    """Put it in its place, whole and on the disk for certain. Raises `Conflict` if something has come there."""
    for path in draft.rglob("*"):  # files, then the folders that name them
        blobs.sync(path)
    blobs.sync(draft)
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise taken(target) from error
    blobs.sync(target.parent)


def taken(target: Path) -> Conflict:
    return Conflict(f"There is something in {target} already: name a folder that is empty or not there yet")


def _take(held: int, draft: Path, target: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_free = False
    else:
        is_free = _is_it(held, draft)  # or another has published it in this very moment
    if not is_free:
        raise Conflict(f"Another process is making {target} now. Wait until it has ended")


def _is_it(held: int, draft: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), draft.stat())
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
