"""An engine's process: `python -m milepost.serving BASE HASH --threads N`, its stdin a socket to the client.

A thread reads messages, the main thread computes. When the client's end closes, however that came about, the process
ends at once: no engine outlives its server.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import torch

from milepost.errors import Error
from milepost.modeling import device as devices
from milepost.serving.beside import Beside
from milepost.serving.busy import Busy
from milepost.serving.core import Core, load_core
from milepost.serving.protocol import LENGTH, NO_LIMITS, TO_ENGINE, Limits, Ready, ToEngine, frame, to_failure

log = logging.getLogger(__name__)

Inbox = queue.SimpleQueue[ToEngine]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m milepost.serving", description=__doc__)
    parser.add_argument("base", type=Path, help="folder of the base model")
    parser.add_argument("hash", help="hash of the base model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--limits", type=Limits.model_validate_json, default=NO_LIMITS, help="Limits as JSON")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with socket.socket(fileno=0) as connection:
        return serve(connection, base=given.base, base_hash=given.hash, threads=given.threads, limits=given.limits)


def serve(connection: socket.socket, *, base: Path, base_hash: str, threads: int, limits: Limits) -> int:
    """Load a base, say so, and answer until the client's end closes."""
    inbox: Inbox = queue.SimpleQueue()
    Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        try:
            device = devices.use(limits.device)
            dtype = devices.dtype_of(device)
            core = load_core(base, base_hash, dtype, limits)
        except Error as error:
            log.exception("the engine cannot start")
            connection.sendall(frame(to_failure(error)))
            return 1
        name = str(dtype).removeprefix("torch.")
        where = devices.name(device) or f"{threads} threads"
        log.info("base %s in %s is loaded: %s, %s", base_hash, base, name, where)
        connection.sendall(frame(Ready(dtype=name, threads=threads)))
        busy = Busy(Path(limits.busy_file) if limits.busy_file else None, limits.token_budget_ms)
        beside = Beside(Path(limits.trainers) if limits.trainers else None, threads=threads, pace=limits.pace)
        while True:
            _take_all(core, inbox)
            began = time.monotonic()
            with beside.step():
                answers = core.step()
            took = time.monotonic() - began
            busy.took(took)
            connection.sendall(b"".join(frame(answer) for answer in answers))
            beside.rest(took, core.rows)


def _take_all(core: Core, inbox: Inbox) -> None:
    """Take what has come meanwhile; with nothing to compute, wait for a message."""
    while core.is_idle or not inbox.empty():
        core.take(inbox.get())


def _listen(connection: socket.socket, inbox: Inbox) -> None:
    try:
        with connection.makefile("rb") as stream:
            while header := stream.read(LENGTH.size):
                (length,) = LENGTH.unpack(header)
                inbox.put(TO_ENGINE.validate_json(stream.read(length)))
        log.info("the client is gone")
    except (OSError, ValueError):
        log.exception("the client cannot be understood")
    finally:
        os._exit(0)  # the main thread may be in the middle of a product, and has nothing to save
