"""Sharing processors with those who train on this machine.

A token is a product after another on one core or two, and so is a step of training: where both want a core, each waits
for the other at every product, and both lose more than a half. So while a token is computed, training keeps off the
engine's cores; after it the engine rests, until a token has taken `pace` times as long as the fastest, and training has
them all. Each of its threads has a core to come back to: left to the kernel, it stays where it was for milliseconds.
What anybody computes stays what it is: a job's number of threads is its own.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost.modeling import machine, trainers

#: How often it is looked who trains, and of how many steps the fastest is taken.
LOOK_S, STEPS = 1.0, 64


class Beside:
    """`folder` is where training processes tell of themselves (`resources.runs.TRAINERS`); without one, or where cores
    cannot be chosen, nobody makes room. `threads` are the engine's.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        threads: int,
        pace: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._pace = pace
        self._clock = clock
        self._sleep = sleep
        self._all = machine.cores()
        mine = sorted(self._all)[:threads]
        self._others = sorted(self._all - set(mine))
        self._cores = [*self._others, *mine]
        self._mine = frozenset(mine)
        self._trainers: list[int] = []
        self._guests: list[tuple[int, int, int]] = []  # threads, the cores of mine they are at home on, and others
        self._look_at = 0.0
        self._spent: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=STEPS))

    @contextmanager
    def step(self) -> Iterator[None]:
        """While the engine computes."""
        self._look()
        for thread, _, elsewhere in self._guests:
            machine.put(thread, {elsewhere})
        try:
            yield
        finally:
            for thread, home, _ in self._guests:
                machine.put(thread, {home})

    def rest(self, seconds: float, rows: int) -> None:
        """After a step that took so long and gave `rows` sequences a token each: leave the rest to training, if there
        is any. A step with a prompt in it takes longer than its share, and is followed by none.
        """
        spent = self._spent[rows]
        spent.append(seconds)
        left = self._pace * min(spent) - seconds
        if self._trainers and left > 0:
            self._sleep(left)

    def _look(self) -> None:
        if self._folder is None or not self._all or self._clock() < self._look_at:
            return
        self._look_at = self._clock() + LOOK_S
        before, self._trainers = self._trainers, list(trainers.alive(self._folder))
        if not self._others:
            return
        if bool(before) != bool(self._trainers):
            machine.keep_to(os.getpid(), self._mine if self._trainers else self._all)
        self._guests = list(self._housed())

    def _housed(self) -> Iterator[tuple[int, int, int]]:
        """Give each of training's threads a core, first those that are not ours; gives those on ours."""
        threads = [thread for process in self._trainers for thread in machine.threads(process)]
        for number, thread in enumerate(threads):
            home, elsewhere = self._cores[number % len(self._cores)], self._others[number % len(self._others)]
            machine.put(thread, {home})
            if home in self._mine:
                yield thread, home, elsewhere
