"""A server: its parts, built and kept together, HTTP and the worker in a thread each."""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from milepost.api.app import create_app
from milepost.api.metrics import Metrics
from milepost.cli.engines import RunningEngine, make
from milepost.cli.ready import warmer
from milepost.config import Settings
from milepost.errors import Conflict, Denied, Forbidden, Unavailable
from milepost.jobs.launchers import LAUNCHERS, TRAINING
from milepost.jobs.worker import Worker
from milepost.store import blobs, keys, sweeping
from milepost.store.database import Database, open_database
from milepost.store.keys import KeyKind, Secrets

LOCAL = "local.json"
#: What connections get to end in, once their answers have ended.
_HTTP_GRACE_S = 3


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
def start_server(settings: Settings, environment: Mapping[str, str]) -> Iterator[Running]:
    """A server on the settings' data folder while the block runs. Its jobs' processes get `environment`."""
    with ExitStack() as parts:
        parts.enter_context(_alone_in(settings.data_dir))
        database = open_database(settings)
        parts.callback(database.close)
        blobs.forget_incoming(database.folder)
        sweeping.drop_strangers(database)
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
        worker = Worker(
            database,
            settings,
            LAUNCHERS["local"](environment, TRAINING),
            on_checkpoint=warmer(database, settings, engines, loop, metrics.ready),
        )
        app = create_app(settings, database, engines, counted=metrics, worker=worker)
        threads = (
            _sweep(parts, database, stop),
            _work(parts, worker, stop),
            _answer(parts, app, settings, engines, listening, loop=loop),
        )
        parts.callback(stop.set)  # first of all, so that children save while HTTP winds down
        _leave_for_sql(settings, url, key)
        yield Running(url, key, secrets, threads)


def _sweep(parts: ExitStack, database: Database, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=sweeping.keep_sweeping, args=(database, stop), name="sweeper", daemon=True)
    thread.start()
    parts.callback(thread.join)
    parts.callback(stop.set)
    return thread


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


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the data folder: two servers on one would both run its jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Conflict(
                f"Another Milepost server (process {lock.read().strip() or 'unknown'}) uses {folder}. "
                "Stop it, or choose another folder with --data"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


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
