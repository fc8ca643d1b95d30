"""Chats and training on one machine: who gives way to whom.

Nothing is said between the processes but the times of change of two files, so that neither can hold up the other, and
what is computed stays as it is.

`busy`, a time in the future, tells those who train on this machine that chats wait: training looks between its batches,
and pauses for some of the time (`training.directory`). `training`, a time not long past, tells an engine that training
needs every core: it rests between its steps.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

#: How long an engine rests after a step, as a part of what the step took, and at most. Training computes in step on all
#: cores, and gets half its speed while one of them is taken, whatever the scheduler is told (bench/LOG.md); while an
#: engine rests it gets all of it. So training keeps two thirds, and a token takes half as long again.
REST, MOST_REST_S = 0.5, 0.05
#: How old the last sign of training may be: it comes between batches.
RECENT_S = 5.0
#: How often it is looked for.
LOOK_S = 0.5

#: For how long one slow token asks for room; as long as answers are slow it is asked for again.
ROOM_S = 1.0


class Busy:
    """`file` None, or no budget: nobody is told."""

    def __init__(self, file: Path | None, budget_ms: int, clock: Callable[[], float] = time.time) -> None:
        self._file = file if budget_ms else None
        self._budget_s = budget_ms / 1000
        self._clock = clock
        self._until = 0.0

    def took(self, seconds: float) -> None:
        """Hear how long a step of the engine took, in which each running answer got a token."""
        now = self._clock()
        if self._file is None or seconds <= self._budget_s or now < self._until - ROOM_S / 2:
            return
        self._until = now + ROOM_S
        self._file.touch()
        os.utime(self._file, (self._until, self._until))


class Rest:
    """What an engine leaves to training of the budget for its tokens, if there is one; `file` None: nobody trains."""

    def __init__(self, file: Path | None, budget_ms: int, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._budget_s = budget_ms / 1000 if budget_ms else math.inf
        self._clock = clock
        self._looked_at = 0.0
        self._is_beside = False

    def after(self, seconds: float) -> float:
        """How long to rest, in seconds, after a step that took so many."""
        now = self._clock()
        if self._file is not None and abs(now - self._looked_at) >= LOOK_S:
            self._looked_at, self._is_beside = now, abs(now - _changed_at(self._file)) < RECENT_S
        return max(0.0, min(REST * seconds, MOST_REST_S, self._budget_s - seconds)) if self._is_beside else 0.0


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
