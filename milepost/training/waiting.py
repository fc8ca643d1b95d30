"""A process that has imported torch before there is anything to train: a second and a half that no job waits for."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from milepost.resources.runs import LOG, Order

#: A process that nobody has needed for so long gives its memory back.
PATIENCE_S = 600.0


def ordered() -> Path | None:
    """Make ready, and wait for the order: its run directory, into whose log all is printed from then on. None if nobody
    needs this process any more.
    """
    import milepost.training.loop  # noqa: F401 (torch, and all that trains)

    stdin = sys.stdin.buffer
    is_heard, _, _ = select.select([stdin], [], [], PATIENCE_S)
    line = stdin.readline() if is_heard else b""
    if not line.endswith(b"\n"):  # closed: whoever was to give the order has ended
        return None
    order = Order.model_validate_json(line)
    os.environ.update(order.secrets)
    directory = Path(order.directory)
    _connect(os.open(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 1, 2)
    _connect(os.open(os.devnull, os.O_RDONLY), 0)
    return directory


def _connect(handle: int, *numbers: int) -> None:
    for number in numbers:
        os.dup2(handle, number)
    os.close(handle)
