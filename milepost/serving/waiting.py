"""How many may wait for an answer, and when nobody may any more: what every engine has in front of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from milepost.errors import Exhausted, Unavailable
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


class Flights:
    """Requests from their first step to their last, so that a server that stops can wait for them."""

    def __init__(self) -> None:
        self._count = 0
        self.is_stopping = False
        self._is_quiet = asyncio.Event()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A request in flight. Raises `Unavailable` once no more are taken."""
        if self.is_stopping:
            raise stopping()
        self._count += 1
        self._is_quiet.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._is_quiet.set()

    async def land(self, grace_s: float) -> None:
        """Take no more, and wait for those in flight; no longer than the grace."""
        self.is_stopping = True
        if self._count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_quiet.wait(), grace_s)


def stopping() -> Unavailable:
    return Unavailable("The server is stopping. Ask again once it is up")
