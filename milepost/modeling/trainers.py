"""Who trains on this machine: told by each process that does, for the engines, which share its cores with it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.resources.runs import TRAINERS

#: What the files of this machine's processes begin with, before the id: a data folder may be shared.
_HERE = f"{socket.gethostname()}-"


@contextmanager
def told(run: Path) -> Iterator[None]:
    """A locked file with this process's id in its name, as long as the block runs; where no engine has made the folder
    for it, nobody is told.
    """
    folder = run.resolve().parent.parent / TRAINERS
    if not folder.is_dir():
        yield
        return
    file = folder / f"{_HERE}{os.getpid()}"
    with file.open("wb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def alive(folder: Path) -> Iterator[int]:
    """The training processes of this machine: each holds the lock of its file as long as it lives."""
    for file in folder.glob(f"{_HERE}*"):
        try:
            with file.open("rb") as opened:
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            file.unlink(missing_ok=True)  # it was killed
        except BlockingIOError:
            yield int(file.name.removeprefix(_HERE))
        except FileNotFoundError:  # it has just ended
            continue
