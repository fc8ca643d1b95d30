"""A server or a worker: its parts, built and kept together; of a server HTTP and its worker in a thread each."""

from __future__ import annotations

import asyncio
import json
import math
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from milepost.api.app import create_app
from milepost.api.connections import patient
from milepost.api.metrics import Metrics
from milepost.cli import folders
from milepost.cli.engines import RunningEngine, make
from milepost.cli.providers import LOCAL
from milepost.cli.ready import warmer
from milepost.config import Settings
from milepost.errors import Denied, Forbidden, Invalid, Unavailable
from milepost.jobs.launchers import LAUNCHERS, TRAINING
from milepost.jobs.leases import SharedClock
from milepost.jobs.worker import Worker
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.store import blobs, keys, sweeping
from milepost.store.database import Database, open_database
from milepost.store.keys import KeyKind, Secrets

#: How long a thread that computes keeps the others waiting: with Python's own 5 ms, which a request waits some five
#: times, each listing beside a running check of an upload took 25 ms and more.
_SWITCH_S = 0.0005
#: What connections get to end in, once their answers have ended.
_HTTP_GRACE_S = 3
_NEEDS_POSTGRES = (
    "`{}` is for several processes over one Postgres database: set MILEPOST_DATABASE_URL to its URL, and the same data "
    "folder, for all of them. With SQLite `milepost serve` alone does all the work"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers. `secrets` are there at the first start of its data folder only."""

    url: str
    key: str
    secrets: Secrets | None
    threads: tuple[threading.Thread, ...]

    def is_whole(self) -> bool:
        return all(thread.is_alive() for thread in self.threads)


@contextmanager
def start_server(settings: Settings, environment: Mapping[str, str], *, works: bool = True) -> Iterator[Running]:
    """A server on the settings' data folder while the block runs, with a worker if it `works`. Its jobs' processes get
    `environment`.
    """
    with ExitStack() as parts:
        parts.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH_S)
        database = parts.enter_context(_opened(settings))
        if not works and not database.is_shared:
            raise Invalid(_NEEDS_POSTGRES.format("milepost serve --no-worker"), param="no-worker")
        listening = parts.enter_context(_listen(settings.host, settings.port))
        secrets = keys.bootstrap(database, settings, time.time())  # last of what may fail: they are shown this once
        address = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 (a comparison)
        address = f"[{address}]" if ":" in address else address
        url = f"http://{address}:{listening.getsockname()[1]}/v1"
        key = secrets.project_key if secrets else _key_for_local(database, settings)
        stop = threading.Event()
        loop = asyncio.new_event_loop()
        parts.callback(loop.close)
        engines = make(settings, environment)
        metrics = Metrics()
        threads = [_sweep(parts, database, stop)]
        worker = None
        if works:
            on_checkpoint = warmer(database, settings, engines, loop, metrics.ready)
            worker = parts.enter_context(_worker(database, settings, environment, on_checkpoint))
            threads.append(_work(parts, worker, stop))
        app = create_app(settings, database, engines, counted=metrics, worker=worker)
        threads.append(_answer(parts, app, settings, engines, listening, loop=loop))
        parts.callback(stop.set)  # first of all, so that children save while HTTP winds down
        _leave_for_sql(settings, url, key)
        yield Running(url, key, secrets, tuple(threads))


def run_worker(settings: Settings, environment: Mapping[str, str], stop: threading.Event) -> None:
    """Work for the servers over this database and data folder until `stop` is set, and the children have saved."""
    with _opened(settings) as database:
        if not database.is_shared:
            raise Invalid(_NEEDS_POSTGRES.format("milepost worker"), param="MILEPOST_DATABASE_URL")
        with _worker(database, settings, environment) as worker:
            worker.work(stop)


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """The store, and what a crash has left of it removed, if nobody else uses the folder now."""
    with ExitStack() as parts:
        if settings.database_url is None:
            parts.enter_context(folders.alone_in(settings.data_dir))
        database = open_database(settings)
        parts.callback(database.close)
        if settings.database_url is None:
            _tidy(database)
        else:
            parts.enter_context(folders.beside_others(database.folder, partial(_tidy, database)))
        yield database


def _tidy(database: Database) -> None:
    blobs.forget_incoming(database.folder)
    sweeping.drop_strangers(database)


def _sweep(parts: ExitStack, database: Database, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=sweeping.keep_sweeping, args=(database, stop), name="sweeper", daemon=True)
    thread.start()
    parts.callback(thread.join)
    parts.callback(stop.set)
    return thread


@contextmanager
def _worker(
    database: Database,
    settings: Settings,
    environment: Mapping[str, str],
    on_checkpoint: Callable[[FineTuningJobCheckpoint], None] = lambda _: None,
) -> Iterator[Worker]:
    launcher = LAUNCHERS["local"](environment, TRAINING)
    if not database.is_shared:
        yield Worker(database, settings, launcher, on_checkpoint=on_checkpoint)
        return
    with folders.worker_name(database.folder) as name:
        lease_s = settings.lease_s
        now = SharedClock(database, every_s=lease_s / 8)
        yield Worker(database, settings, launcher, now=now, owner=name, lease_s=lease_s, on_checkpoint=on_checkpoint)


def _work(parts: ExitStack, worker: Worker, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=worker.work, args=(stop,), name="worker", daemon=True)
    thread.start()
    parts.callback(thread.join)
    parts.callback(stop.set)
    return thread


def _answer(
    parts: ExitStack,
    app: ASGIApp,
    settings: Settings,
    engines: RunningEngine,
    listening: socket.socket,
    *,
    loop: asyncio.AbstractEventLoop,
) -> threading.Thread:
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            access_log=False,
            log_config=None,
            http=patient(settings.client_patience_s, _most_connections()),
            timeout_graceful_shutdown=math.ceil(settings.stop_grace_s) + _HTTP_GRACE_S,
        )
    )

    async def answer() -> None:
        async with engines:
            await server.serve(sockets=[listening])

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(answer())

    def stop() -> None:
        server.should_exit = True
        stopping = engines.stop(settings.stop_grace_s)
        try:
            asyncio.run_coroutine_threadsafe(stopping, loop)
        except RuntimeError:  # the loop has ended, whatever ended it
            stopping.close()

    thread = threading.Thread(target=run, name="http", daemon=True)
    thread.start()
    parts.callback(thread.join)
    parts.callback(stop)
    while not server.started:
        if not thread.is_alive():
            raise Unavailable("The HTTP server could not start; the log above tells why")
        time.sleep(0.01)
    return thread


def _most_connections() -> int:
    """Half of what the process may open is for connections; files and the database need the rest."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else files // 2


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise Unavailable(
            f"Cannot listen on {host} port {port}: {error.strerror}. Choose another with --port"
        ) from None
    with listening:
        # asyncio does this only for sockets that name their protocol; without it each small answer waits 40 ms for an
        # acknowledgement that the client delays
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listening


def _key_for_local(database: Database, settings: Settings) -> str:
    """A project key whose secret is still known: the one in the environment, the one left last time, or a new one."""
    given = settings.bootstrap_key
    left = settings.config_dir / LOCAL
    candidates = [given.get_secret_value()] if given else []
    if left.exists():
        with suppress(ValueError, KeyError):  # a note that cannot be read is written anew
            candidates.append(json.loads(left.read_text())["key"])
    for candidate in candidates:
        try:
            keys.authenticate(database, candidate)
        except (Denied, Forbidden):
            continue
        return str(candidate)
    return keys.create(database, KeyKind.PROJECT, "local", time.time())[1]


def _leave_for_sql(settings: Settings, url: str, key: str) -> None:
    """Tell the SQL provider `local` where this server is, and with which key."""
    settings.config_dir.mkdir(parents=True, exist_ok=True)
    told = {"url": url, "key": key, "data_dir": str(settings.data_dir.resolve())}
    blobs.write_whole(settings.config_dir / LOCAL, json.dumps(told, indent=1) + "\n")
