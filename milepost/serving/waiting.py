"""How many may wait for an answer: a line of bounded length for each client, whoever is full is told when to return."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from milepost.errors import Exhausted
from milepost.serving.protocol import Generation

#: The shortest and the longest that a client is sent away for. The SDKs take no word above 60 s.
LEAST_AWAY_S, MOST_AWAY_S = 1, 30


class Waiting:
    """Requests that have no answer yet, counted by client, so that one client's do not use up another's places."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._counts: Counter[str] = Counter()
        self._last_wait_s = 0.0

    @contextmanager
    def place(self, request: Generation) -> Iterator[Callable[[], None]]:
        """A place in the line until the block ends, or what it gives is called: the answer begins.

        Raises `Exhausted` if the line is full; of a request that is admitted the place is only counted.
        """
        client, since = request.client, self._clock()
        if self._counts[client] >= self._most and not request.is_admitted:
            away_s = min(max(math.ceil(self._last_wait_s), LEAST_AWAY_S), MOST_AWAY_S)
            raise Exhausted(
                f"{self._most} requests of this project wait for their answers already, and no more may "
                f"(MILEPOST_MAX_WAITING). Try again in {away_s} s",
                code="rate_limit_exceeded",
                retry_after_s=away_s,
            )
        is_held = True
        self._counts[client] += 1

        def leave() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._counts[client] -= 1
                self._counts += Counter()  # clients of whom nothing waits are forgotten

        def answered() -> None:
            if is_held:
                self._last_wait_s = self._clock() - since
            leave()

        try:
            yield answered
        finally:
            leave()
