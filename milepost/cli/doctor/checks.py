"""What `milepost doctor` looks at: each check says one thing or more, and what would mend it."""

from __future__ import annotations

import difflib
import importlib.util
import os
import platform
import resource
import shutil
import socket
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from milepost import __version__, config
from milepost.cli import folders
from milepost.cli.providers import LOCAL
from milepost.config import PREFIX, Settings
from milepost.errors import Error, Invalid, Unavailable

if TYPE_CHECKING:  # the store's libraries may be missing where only SQL is used
    from milepost.store import inspection

LEAST_PYTHON = (3, 11)
#: Sockets, blobs and event files of a busy server.
LEAST_FILES = 1024
_CLOCKS_DIFFER_S = 5.0
#: What Postgres says of a connection that it refuses, and what mends it.
_UNREACHED = (
    ("password", "Mend the user or password in MILEPOST_DATABASE_URL"),
    ("role", "Make the user (createuser), or mend its name in MILEPOST_DATABASE_URL"),
    ("database", "Make the database (createdb), or mend its name in MILEPOST_DATABASE_URL"),
    ("pg_hba.conf", "Let this machine in: pg_hba.conf of that Postgres does not"),
    ("too many", "Raise max_connections of that Postgres: each server or worker may use 64"),
    ("permission denied", "Let the user read and write all tables of that database, or make it their owner"),
)
_NOBODY_THERE = "Start Postgres, or mend the host and port in MILEPOST_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    state: Literal["ok", "warn", "bad"]
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at. `trouble` is what the settings are refused with; then those that can be read are taken."""

    settings: Settings
    trouble: tuple[Finding, ...]
    deep: bool

    @property
    def folder(self) -> Path:
        return self.settings.data_dir.resolve()

    @property
    def url(self) -> str | None:
        """Of the Postgres that holds the rows, with its password."""
        url = self.settings.database_url
        return None if url is None else url.get_secret_value()

    @classmethod
    def of(cls, environment: Mapping[str, str], data: Path | None, *, deep: bool = False) -> Patient:
        kept = dict(environment)
        trouble: list[Finding] = []
        while True:
            try:
                return cls(config.load(kept, data_dir=data), tuple(trouble), deep)
            except Invalid as error:
                name = error.param or ""
                trouble.append(Finding("settings", "bad", error.message, _nearest(name)))
                if kept.pop(name, None) is None:  # a flag is wrong, not a variable: nothing can be looked at
                    raise


def examine(patient: Patient) -> Iterator[Finding]:
    """Every check in turn; one that cannot be made says so, and the others are made all the same."""
    for check in CHECKS:
        try:
            yield from check(patient)
        except (Error, OSError, sqlite3.Error) as error:
            yield Finding(check.__name__.strip("_"), "bad", f"cannot be looked at: {error}")


def _settings(patient: Patient) -> Iterator[Finding]:
    yield from patient.trouble
    if not patient.trouble:
        yield Finding("settings", "ok", f"{PREFIX}* are all known, and fit")


def _nearest(name: str) -> str:
    known = [PREFIX + each.upper() for each in Settings.model_fields]
    near = difflib.get_close_matches(name, known, n=1) if name not in known else []
    return f"Did you mean {near[0]}?" if near else "docs/reference/settings.md lists them"


def _python(_: Patient) -> Iterator[Finding]:
    is_new = sys.version_info >= LEAST_PYTHON
    says = f"Python {platform.python_version()}, Milepost {__version__}"
    yield Finding("python", "ok" if is_new else "bad", says, "" if is_new else "Milepost needs Python 3.11 or newer")


def _libraries(patient: Patient) -> Iterator[Finding]:
    yield Finding("sdk", "ok", f"openai {metadata.version('openai')}")
    missing = [
        name for name in ("torch", "transformers", "fastapi", "sqlalchemy") if not importlib.util.find_spec(name)
    ]
    if missing:
        remedy = "pip install 'milepost[server]', if this machine is to serve or train; SQL needs none of them"
        yield Finding("libraries", "warn", f"not installed: {', '.join(missing)}", remedy)
        return
    yield Finding("libraries", "ok", f"torch {metadata.version('torch')}")
    from milepost.modeling.base import choose_dtype

    dtype = str(choose_dtype()).removeprefix("torch.")
    has_bf16 = dtype == "bfloat16"
    says = f"{os.cpu_count()} cores; matrices are multiplied fastest in {dtype}"
    remedy = "" if has_bf16 else "A processor with AVX512-BF16 or AMX trains some four times faster"
    yield Finding("processor", "ok", says, remedy)
    yield from _gpus(patient.settings.device)


def _gpus(asked: str) -> Iterator[Finding]:
    from milepost.modeling import device

    found = device.gpus()
    if found:
        yield Finding("gpu", "ok", f"{', '.join(found)}; MILEPOST_DEVICE is {asked}")
    elif asked.startswith("cuda"):
        remedy = "Install a torch with CUDA and NVIDIA's driver, or set MILEPOST_DEVICE to cpu"
        yield Finding("gpu", "bad", f"MILEPOST_DEVICE is {asked}, and torch finds no GPU", remedy)


def _bases(patient: Patient) -> Iterator[Finding]:
    from milepost.modeling.folders import folder_hash
    from milepost.store import bases

    settings = patient.settings
    there = bases.list_bases(settings)
    for base in there:
        is_whole = folder_hash(bases.folder(settings, base.name)) == base.hash
        state: Literal["ok", "bad"] = "ok" if is_whole else "bad"
        remedy = "" if is_whole else f"Remove {bases.folder(settings, base.name)}, then `milepost pull {base.name}`"
        yield Finding("bases", state, f"{base.name} is {'whole' if is_whole else 'not what was fetched'}", remedy)
    if settings.default_base not in {base.name for base in there}:
        says = f"{settings.default_base}, which aliases stand for, is not in {settings.bases_dir}"
        yield Finding("bases", "warn", says, f"milepost pull {settings.default_base}")


def _folder(patient: Patient) -> Iterator[Finding]:
    folder = patient.folder
    if not folder.exists():
        yield Finding("data", "warn", f"there is no {folder} yet", "The first `milepost serve` makes it")
        return
    if (folder / "restoring").exists():
        yield Finding(
            "data", "bad", f"a restore into {folder} was interrupted", "Run the same `milepost restore` again"
        )
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("data", "bad", f"{folder} cannot be written by this user", f"chown -R $USER {folder}")
    elif mode & 0o077:
        says = f"{folder} is open to others (mode {mode:o}): training data and hashes of keys are in it"
        yield Finding("data", "warn", says, f"chmod 700 {folder}")
    else:
        yield Finding("data", "ok", f"{folder} is this user's only")


def _disk(patient: Patient) -> Iterator[Finding]:
    place = next(path for path in (patient.folder, *patient.folder.parents) if path.exists())
    free, least = shutil.disk_usage(place).free, patient.settings.min_free_bytes
    says = f"{free >> 20} MiB are free"
    if free < least:
        remedy = "Delete files and jobs' checkpoints, or move the data folder: uploads and checkpoints will fail"
        yield Finding("disk", "bad", f"{says}, less than {least >> 20} (MILEPOST_MIN_FREE_BYTES)", remedy)
    else:
        yield Finding("disk", "ok", says)


def _store(patient: Patient) -> inspection.Store | None:
    """None where there is nothing to look at, or where it cannot be: another check says so."""
    from milepost.store import inspection

    store = inspection.Store(patient.folder, patient.url)
    if patient.url is None:
        return store if (patient.folder / "milepost.db").exists() else None
    try:
        return store if inspection.schema(store) else None
    except (Error, ModuleNotFoundError):
        return None


def _postgres(patient: Patient) -> Iterator[Finding]:
    if patient.url is None:
        return
    from milepost.store import inspection

    store = inspection.Store(patient.folder, patient.url)
    try:
        found = inspection.postgres(store, time.time())
        is_new = inspection.schema(store) is None
    except ModuleNotFoundError as error:
        says = f"MILEPOST_DATABASE_URL names a Postgres, and {error.name} is not installed"
        yield Finding("database", "bad", says, "pip install 'milepost[server,postgres]'")
        return
    except Unavailable as error:
        remedy = next((remedy for words, remedy in _UNREACHED if words in error.message), _NOBODY_THERE)
        yield Finding("database", "bad", error.message, remedy)
        return
    says = f"Postgres {found.version}, {found.connections} connections; each server or worker may use 64 of them"
    yield Finding("database", "ok", says)
    if is_new:
        yield Finding("schema", "warn", "the database has no tables yet", "The first `milepost serve` makes them")
    if found.careless:
        says = f"Postgres runs with {', '.join(f'{name} = off' for name in found.careless)}"
        remedy = "Turn them on in postgresql.conf: what was answered may be gone when the power goes"
        yield Finding("database", "warn", says, remedy)
    if abs(found.ahead_s) > _CLOCKS_DIFFER_S:
        side = "ahead of" if found.ahead_s > 0 else "behind"
        says = f"the database's clock is {abs(found.ahead_s):.0f} s {side} this machine's"
        yield Finding("clock", "warn", says, "Set both (timedatectl set-ntp true): keys and uploads expire by them")


def _database(patient: Patient) -> Iterator[Finding]:
    if (store := _store(patient)) is None:
        return
    from milepost.store import inspection

    found, newest = inspection.schema(store), inspection.newest_schema()
    if found is None or found > newest:
        remedy = "Upgrade Milepost, or choose another folder with --data"
        if patient.url is not None:
            remedy = "Upgrade Milepost, or name another database in MILEPOST_DATABASE_URL"
        yield Finding("schema", "bad", f"the database has schema {found}, this Milepost knows {newest}", remedy)
    else:
        says = f"schema {found}" + ("" if found == newest else f"; the next start makes it {newest}")
        yield Finding("schema", "ok", says)
    faults = inspection.faults(store)
    remedy = "Stop the server and put a copy of the folder back, or `sqlite3 milepost.db .recover`"
    yield from (Finding("integrity", "bad", fault, remedy) for fault in faults)
    if not faults and patient.url is None:
        yield Finding("integrity", "ok", "the database is whole")
    ahead_s = inspection.newest_time(store) - time.time()
    if ahead_s > 60:
        remedy = "Set the clock (timedatectl set-ntp true): keys and uploads expire by it"
        yield Finding("clock", "bad", f"the newest event is {ahead_s:.0f} s in the future", remedy)
    else:
        yield Finding("clock", "ok", "no event lies in the future")
    if not inspection.open_keys(store, time.time()):
        yield Finding("keys", "bad", "no key opens anything", "milepost keys create")


def _blobs(patient: Patient) -> Iterator[Finding]:
    if (store := _store(patient)) is None:
        return
    from milepost.jobs.runs import RUNS
    from milepost.store import inspection

    if gone := inspection.missing(store):
        says = f"the bytes of {len(gone)} are gone: {', '.join(gone[:5])}"
        yield Finding(
            "blobs", "bad", says, "Put files/ and adapters/ back from a copy, or delete these through the API"
        )
    if patient.deep:
        wrong = list(inspection.corrupt(patient.folder))
        for path in wrong:
            remedy = "Put it back from a copy; nothing is served or trained from it as it is"
            yield Finding("blobs", "bad", f"{path} is not the bytes of its hash", remedy)
        if not gone and not wrong:
            yield Finding("blobs", "ok", "every file and adapter is there, and the bytes of its hash")
    elif not gone:
        yield Finding("blobs", "ok", "every file and adapter is there; `--deep` reads them all")
    if strange := inspection.strange_runs(store, RUNS):
        says = f"{len(strange)} folders of runs are no job's: {', '.join(path.name for path in strange[:5])}"
        yield Finding("runs", "warn", says, f"rm -r {patient.folder / RUNS}/NAME, once you know them")


def _port(patient: Patient) -> Iterator[Finding]:
    host, port = patient.settings.host, patient.settings.port
    if folders.is_used(patient.folder):
        yield Finding("port", "ok", "a server runs on this data folder")
        return
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            yield Finding("port", "ok", f"{host} port {port} is free")
    except OSError as error:
        remedy = "Stop what listens there, or set MILEPOST_PORT"
        yield Finding("port", "bad", f"{host} port {port}: {error.strerror}", remedy)


def _sandbox(_: Patient) -> Iterator[Finding]:
    from milepost.graders import sandbox

    try:
        ran = sandbox.run("def grade(sample, item):\n    return 1.0", {}, {})
    except Invalid as error:
        yield Finding("sandbox", "warn", error.message, "docs/explanation/python-graders.md says what it needs")
        return
    layers = ", ".join(sorted(ran.layers))
    if ran.reward == 1.0:
        yield Finding("sandbox", "ok", f"python graders run, held by {layers}")
    else:
        yield Finding("sandbox", "bad", f"a python grader failed: {ran.error or ran.fault}", ran.output)


def _limits(_: Patient) -> Iterator[Finding]:
    files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        yield Finding("limits", "warn", f"a process may open {files} files only", f"ulimit -n {LEAST_FILES}")
    size, _hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size != resource.RLIM_INFINITY:
        yield Finding("limits", "warn", f"files may be {size >> 20} MiB at most", "ulimit -f unlimited")
    memory, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if memory != resource.RLIM_INFINITY:
        yield Finding("limits", "warn", f"a process may have {memory >> 20} MiB only", "ulimit -v unlimited")


def _local(patient: Patient) -> Iterator[Finding]:
    note = patient.settings.config_dir / LOCAL
    if note.exists() and stat.S_IMODE(note.stat().st_mode) & 0o077:
        yield Finding("keys", "bad", f"{note} holds a key, and others may read it", f"chmod 600 {note}")


#: In the order they are told.
CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    _settings,
    _python,
    _libraries,
    _bases,
    _folder,
    _disk,
    _postgres,
    _database,
    _blobs,
    _port,
    _local,
    _sandbox,
    _limits,
)
