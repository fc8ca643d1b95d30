"""The demo's own server: `milepost serve` as a user would start it, on a free port, with a configuration of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from milepost.cli.providers import LOCAL
from milepost.errors import Unavailable

#: Settings of the user's own server, which must not reach the demo's.
NOT_OURS = {
    f"MILEPOST_{name}"
    for name in ("URL", "API_KEY", "BOOTSTRAP_KEY", "HOST", "PORT", "DATA_DIR", "CONFIG_DIR", "ORGANIZATION", "ALIASES")
}
START_S, STOP_S = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str


@asynccontextmanager
async def running(data: Path, notes: Path, environ: Mapping[str, str]) -> AsyncIterator[Server]:
    """A server on the folder `data` while the block runs; it ends orderly, so that a job goes on at the next start.

    `notes` is where it leaves its log, its URL and its key, instead of in the user's configuration.
    """
    before = _written(notes / LOCAL)
    process = _start(data, notes, environ)
    try:
        yield await asyncio.wait_for(_answering(process, notes, before), START_S)
    finally:
        await asyncio.to_thread(_stop, process)


def _start(data: Path, notes: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    notes.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(data)]
    ours = {name: value for name, value in environ.items() if name not in NOT_OURS}
    ours["MILEPOST_CONFIG_DIR"] = str(notes)
    # The log holds the keys that a first start shows.
    with open(notes / "server.log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as log:
        # A session of its own: Ctrl-C reaches the demo only, which then stops the server in order.
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=ours, start_new_session=True)  # noqa: S603 (no shell; the words are ours)


async def _answering(process: subprocess.Popen[bytes], notes: Path, before: int) -> Server:
    """The server, once it has left a newer note than the one written at `before`: it listens then."""
    while _written(notes / LOCAL) == before:
        if process.poll() is not None:
            raise Unavailable(f"`milepost serve` ended at once: {_last_line(notes / 'server.log')}")
        await asyncio.sleep(0.1)
    left = json.loads((notes / LOCAL).read_bytes())
    return Server(url=left["url"], key=left["key"])


def _written(note: Path) -> int:
    return note.stat().st_mtime_ns if note.exists() else 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
