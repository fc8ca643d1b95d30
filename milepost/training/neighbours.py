"""Telling the engines of this machine that a process trains: they have it keep off their cores while they compute."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.resources.runs import TRAINERS


@contextmanager
def told(run: Path) -> Iterator[None]:
    """A locked file with this process's id in its name, as long as the block runs; where no engine has made the folder
    for it, nobody is told.
    """
    folder = run.resolve().parent.parent / TRAINERS
    if not folder.is_dir():
        yield
        return
    file = folder / f"{socket.gethostname()}-{os.getpid()}"
    with file.open("wb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
