"""A Postgres of the tests' own: a cluster in a temporary folder, on a Unix socket, gone with the process that made it."""

from __future__ import annotations

import ctypes
import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

#: Where Debian keeps the programs of each version, besides the path.
DEBIAN = Path("/usr/lib/postgresql")
#: A test's data need not outlive the machine's power.
QUICK = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "shared_buffers": "32MB",
}
_PR_SET_PDEATHSIG = 1


def programs() -> Path | None:
    """The folder with initdb and postgres; None where there is no Postgres."""
    found = shutil.which("initdb")
    newest = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(found).parent if found else newest[-1].parent if newest else None


def require() -> Path:
    """Skip the test where there is no Postgres, but never in CI: what is skipped there is untested."""
    if (found := programs()) is not None:
        return found
    refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    return refuse("needs Postgres: `apt-get install postgresql`, or `initdb` on the path")


class Cluster:
    """A running Postgres. It refuses to be root's, so root runs it as the user that Debian made for it."""

    def __init__(self, bin_folder: Path) -> None:
        self._bin = bin_folder
        self._user = "postgres" if os.getuid() == 0 else getpass.getuser()
        self.folder = Path(tempfile.mkdtemp(prefix="milepost-pg-", dir="/tmp"))
        if os.getuid() == 0:
            owner = pwd.getpwnam(self._user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        folder, options = self.folder / "data", "--username=tests --auth=trust --encoding=UTF8 --locale=C --no-sync"
        self._run("initdb", "-D", str(folder), *options.split())
        self._databases = 0
        self.start()

    def _as_user(self) -> dict[str, Any]:
        owner = pwd.getpwnam(self._user)
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        return {**as_user, "cwd": self.folder, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}

    def _run(self, program: str, *arguments: str) -> None:
        ran = subprocess.run([self._bin / program, *arguments], check=False, stderr=subprocess.PIPE, **self._as_user())
        if ran.returncode:
            pytest.fail(f"{program}: {ran.stderr.decode()}")

    def start(self) -> None:
        options = [each for name, value in QUICK.items() for each in ("-c", f"{name}={value}")]
        command = [self._bin / "postgres", "-D", self.folder / "data", "-k", self.folder, *options]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stderr=log,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 (it calls one function of the kernel's)
                start_new_session=True,
                **self._as_user(),
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"Postgres did not start: {(self.folder / 'log').read_text()}")
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once: whoever is connected is thrown out."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait(30)

    def dsn(self, database: str) -> str:
        return f"host={self.folder} user=tests dbname={database}"

    def url(self, database: str) -> str:
        return f"postgresql://tests@/{database}?host={self.folder}"

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of another; returns its name."""
        self._databases += 1
        name = f"t{self._databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running() -> Iterator[Cluster]:
    cluster = Cluster(require())
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
