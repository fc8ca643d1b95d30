"""Telling those who train on this machine that chats wait: a file whose time of change lies in the future.

Nothing is said between the processes but that time, so that neither can hold up the other, and what is computed stays
as it is: training looks between its batches, and pauses for some of the time (`training.directory`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

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
        if self._file is None or seconds <= self._budget_s or ROOM_S / 2 < self._until - now <= ROOM_S:
            return  # it was asked for just now; longer ahead, the time of day was set back
        self._until = now + ROOM_S
        self._file.touch()
        os.utime(self._file, (self._until, self._until))
