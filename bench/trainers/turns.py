"""A trainer's side of the comparison, standard library only: it takes steps when it is told to, and tells how long they
took. `bench/train.py` is the other side: it writes a number of steps, and reads a line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any


class Turns:
    """What a library prints goes to stderr: stdout is for answers."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._left = 0
        self._began = 0.0
        self._losses: list[float] = []
        self.facts: dict[str, float] = {}  # told with every answer

    def before_step(self) -> None:
        """Wait until a step may be taken; ends the process when no more are wanted."""
        if self._left:
            return
        wanted = sys.stdin.readline().strip()
        if not wanted:
            os._exit(0)
        self._left, self._losses, self._began = int(wanted), [], time.perf_counter()

    def after_step(self, loss: float) -> None:
        self._losses.append(loss)
        self._left -= 1
        if not self._left:
            seconds = time.perf_counter() - self._began
            self.answer(seconds=seconds, losses=self._losses, rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    def answer(self, **facts: Any) -> None:
        self._left = 0
        print(json.dumps(facts | self.facts), file=self._answers)


def given() -> dict[str, Any]:
    """The comparison's file, the script's only argument, and in it how this trainer is set up, its second."""
    folder = Path(sys.argv[1])
    read: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return read | {"folder": folder} | json.loads(sys.argv[2])
