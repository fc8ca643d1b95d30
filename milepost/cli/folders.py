"""Who uses a data folder: one server with SQLite in it, or any number of servers and workers beside each other.

Locks on files of the folder say so. They end with their process, and NFS (version 4) keeps them between machines.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any

from milepost.errors import Conflict

LOCK = "lock"
WORKERS = "workers"
#: How long another process may take to tidy up as it starts.
_PATIENCE_S = 15.0


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the data folder: two servers on one SQLite would both run its jobs."""
    with _lock_of(folder) as lock:
        if not _took(lock, fcntl.LOCK_EX):
            raise _taken(folder, lock)
        _sign(lock)
        yield


@contextmanager
def beside_others(folder: Path, when_alone: Callable[[], None]) -> Iterator[None]:
    """Use the data folder with others that do. Who finds nobody there calls `when_alone` before it lets others in."""
    with _lock_of(folder) as lock:
        if _took(lock, fcntl.LOCK_EX):
            lock.truncate(0)
            when_alone()
        deadline = time.monotonic() + _PATIENCE_S
        while not _took(lock, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise _taken(folder, lock)
            time.sleep(0.05)
        yield


def is_used(folder: Path) -> bool:
    """Whether a server or a worker holds the data folder now."""
    try:
        with (folder / LOCK).open("rb") as lock:
            return not _took(lock, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


@contextmanager
def worker_name(folder: Path) -> Iterator[str]:
    """A name that no other worker over this folder has now: this machine's, with the first number that is free. A
    worker that is started again after a crash so finds its own jobs.
    """
    (folder / WORKERS).mkdir(exist_ok=True)
    for number in count(1):
        name = f"{socket.gethostname()}-{number}"
        with (folder / WORKERS / name).open("a+") as lock:
            if _took(lock, fcntl.LOCK_EX):
                _sign(lock)
                yield name
                return


def _lock_of(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / LOCK).open("a+")


def _took(lock: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(lock: IO[str]) -> None:
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _taken(folder: Path, lock: IO[str]) -> Conflict:
    lock.seek(0)
    return Conflict(
        f"Another Milepost server (process {lock.read().strip() or 'unknown'}) uses {folder}. "
        "Stop it, or choose another folder with --data"
    )
