"""What a grader would be after: files, sockets and a process, outside of its sandbox."""

from __future__ import annotations

import os
import shutil
import site
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SECRET = "the-secret-of-these-tests"
VICTIM = "untouched"


@dataclass(frozen=True)
class Prey:
    item: dict
    process: subprocess.Popen
    sockets: tuple[socket.socket, ...]

    def traces(self) -> list[str]:
        """What an attempt has left behind: nothing, if it failed."""
        victim = Path(self.item["victim"])
        found = sorted(path.name for path in Path(self.item["open"]).iterdir())
        if found != ["victim"]:
            return found
        if (
            victim.read_text() != VICTIM
            or victim.stat().st_mtime < 1000
            or stat.S_IMODE(victim.stat().st_mode) != 0o666
        ):
            found.append("the victim was changed")
        if self.process.poll() is not None:
            found.append("the process was ended")
        for listening in self.sockets:
            try:
                listening.accept()
                found.append("somebody connected")
            except BlockingIOError:
                pass
        return [trace for trace in found if trace != "victim"]


@pytest.fixture
def prey(monkeypatch: pytest.MonkeyPatch) -> Iterator[Prey]:
    """Open to every user of the machine, so that only the sandbox stands before it."""
    monkeypatch.setenv("MILEPOST_API_KEY", SECRET)
    folder = Path(tempfile.mkdtemp(prefix="prey-", dir="/var/tmp"))  # the sandbox has a /tmp of its own
    folder.chmod(0o755)
    (folder / "secret").write_text(SECRET)
    with sqlite3.connect(folder / "milepost.db") as database:
        database.execute("CREATE TABLE keys (secret)")
        database.execute("INSERT INTO keys VALUES (?)", (SECRET,))
    database.close()
    opened = folder / "open"
    opened.mkdir()
    opened.chmod(0o777)
    (opened / "victim").write_text(VICTIM)
    (opened / "victim").chmod(0o666)
    process = subprocess.Popen(["sleep", "60"])
    inherited = os.open(folder / "secret", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        unix.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        abstract.bind(f"\0{folder.name}")
        for listening in (tcp, unix, abstract):
            listening.listen()
            listening.setblocking(False)
        item = {
            "secret": str(folder / "secret"),
            "database": str(folder / "milepost.db"),
            "folder": str(folder),
            "open": str(opened),
            "victim": str(opened / "victim"),
            "port": tcp.getsockname()[1],
            "unix": str(folder / "socket"),
            "abstract": folder.name,
            "pid": process.pid,
            "python": sys.executable,
            "sites": [str(Path(__file__).parents[2]), *site.getsitepackages()],
            "marker": SECRET,
        }
        yield Prey(item, process, (tcp, unix, abstract))
    os.close(inherited)
    process.kill()
    process.wait()
    shutil.rmtree(folder)
