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
#: Every table with its rows as the template has them, in a schema beside: `_RESTORE` puts them back.
_KEEP = """
DO $$ DECLARE name text; BEGIN
  CREATE SCHEMA kept;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
    EXECUTE format('CREATE TABLE kept.%1$I AS TABLE public.%1$I', name);
  END LOOP;
END $$"""
#: Without its triggers, those of foreign keys among them, tables can be emptied in any order.
_RESTORE = """
DO $$ DECLARE name text; BEGIN
  SET LOCAL session_replication_role = replica;
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'kept' LOOP
    EXECUTE format('DELETE FROM public.%1$I', name);
    EXECUTE format('INSERT INTO public.%1$I TABLE kept.%1$I', name);
  END LOOP;
END $$"""
_SHAPE = (
    "SELECT string_agg(oid || ' ' || xmin, ', ' ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
)
_BYTES = "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
#: Rows that are deleted still take room, and time to read past. An empty store has 1 MB.
_MOST_BYTES = 8 << 20


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
        self._idle: dict[str, list[str]] = {}
        self._shapes: dict[str, str] = {}
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

    def keep(self, template: str) -> None:
        """From now on copies of this database are lent: what is in it is what each has."""
        with psycopg.connect(self.dsn(template), autocommit=True) as connection:
            connection.execute(_KEEP)
            self._shapes[template] = _one(connection, _SHAPE)
        self._idle[template] = []

    def lend(self, template: str) -> str:
        """A copy of a kept database, used before or new: to make one takes longer than most tests."""
        idle = self._idle[template]
        return idle.pop() if idle else self.create(template)

    def take_back(self, name: str, template: str) -> None:
        """Whoever is still connected is thrown out, and the rows are the template's again. Where tables are no longer what
        they were, or large, the database is dropped.
        """
        with psycopg.connect(self.dsn(name), autocommit=True) as connection:
            while _one(connection, _OTHERS):
                time.sleep(0.001)
            is_as_lent = _one(connection, _SHAPE) == self._shapes[template] and _one(connection, _BYTES) < _MOST_BYTES
            if is_as_lent:
                connection.execute(_RESTORE)
        if is_as_lent:
            self._idle[template].append(name)
        else:
            self.drop(name)

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


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    [(value,)] = connection.execute(query).fetchall()
    return value


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
