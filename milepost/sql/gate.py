"""How many requests a provider gets at once: all that is configured, until it answers 429; then fewer, and later.

A 429 holds back every request to that provider, not only its own: each goes on when Retry-After is over, half as many
at once, and one more with every answer that is not a 429.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType

#: Told of a wait: its seconds, and the id of the request that was refused.
OnWait = Callable[[float, str | None], None]


class Gate:
    """Enter it before each request and leave it after; it belongs to one event loop."""

    def __init__(self, at_once: int, on_wait: OnWait = lambda _seconds, _id: None) -> None:
        self._most = at_once
        self._now = at_once
        self._running = 0
        self._resume_at = 0.0
        self._on_wait = on_wait
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        while self._running >= self._now:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # the turn may have been given to us already
                raise
        self._running += 1
        try:
            while (wait_s := self._resume_at - time.monotonic()) > 0:  # noqa: ASYNC110 (another 429 may prolong it)
                await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def slow_down(self, wait_s: float, request_id: str | None) -> None:
        """Hold everything back for so long; of many refusals in one wait only the first halves the number."""
        resume_at = time.monotonic() + wait_s
        if self._resume_at < time.monotonic():
            self._now = max(1, self._now // 2)
            self._on_wait(wait_s, request_id)
        self._resume_at = max(self._resume_at, resume_at)

    def speed_up(self) -> None:
        if self._now < self._most and self._resume_at < time.monotonic():
            self._now += 1
            self._wake()

    def _leave(self) -> None:
        self._running -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._running < self._now:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What Retry-After says, in seconds, as milliseconds, seconds or a date; None if it says nothing."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    said = headers.get("retry-after")
    if (seconds := _number(said)) is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(said or "")
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds()) if moment.tzinfo else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
