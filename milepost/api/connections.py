"""HTTP connections that do not wait for their clients for ever: a slow one keeps a place, and bytes, that others need.

Once a client has begun to send, or is being answered, it has to get on; one that does not is cut. (Between two requests
it has the five seconds that uvicorn gives it.) Of more connections than there is room for, the one goes that has asked
for nothing for the longest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

log = logging.getLogger(__name__)

#: What has to come of a body in half of the patience, unless it ends: 550 bytes a second with the default.
_LEAST_BYTES = 16 * 1024


class Wait(Enum):
    """What a connection waits for its client to do."""

    HEAD = "its request's headers did not come"
    BODY = "its request's body came too slowly"
    READER = "its answer was not read"


def patient(patience_s: float, most: int) -> Callable[..., asyncio.Protocol]:
    """What uvicorn speaks HTTP with (its `http`): each client gets `patience_s`, and `most` are there at once."""

    def make(**given: Any) -> asyncio.Protocol:
        return Connection(patience_s, most, **given)

    return make


class Connection(AutoHTTPProtocol):  # type: ignore[misc]  # untyped: it may be either of uvicorn's two
    """One client's. It is looked at twice within its patience, and cut when it has not got on in between."""

    def __init__(self, patience_s: float, most: int, **given: Any) -> None:
        super().__init__(**given)
        self._every_s = patience_s / 2
        self._most = most
        self._began = 0.0
        self._received = 0
        self._stalls = 0
        self._last: tuple[Wait | None, object, int, int] = (None, None, 0, 0)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._began = self.loop.time()
        self._timer = self.loop.call_later(self._every_s, self._look)
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def pause_writing(self) -> None:
        self._stalls += 1
        super().pause_writing()

    def cut(self, why: str) -> None:
        """At once: to close it in order would wait for the client to read what is left."""
        log.info("the connection of %s was cut: %s", self.client, why)
        self.transport.abort()

    @property
    def waits_for(self) -> Wait | None:
        """None if it is our turn."""
        if self.flow.write_paused:
            return Wait.READER
        if self.cycle is None or self.cycle.response_complete:
            return Wait.HEAD
        return Wait.BODY if self.cycle.more_body and not self.flow.read_paused else None

    @property
    def began(self) -> float:
        return self._began

    def _look(self) -> None:
        wait, request, received, stalls = self._last
        self._last = (self.waits_for, self.cycle, self._received, self._stalls)
        if wait is not None and (wait, request) == self._last[:2] and not self._got_on(wait, received, stalls):
            self.cut(wait.value)
            return
        self._timer = self.loop.call_later(self._every_s, self._look)

    def _got_on(self, wait: Wait, received: int, stalls: int) -> bool:
        if wait is Wait.BODY:
            return self._received - received >= _LEAST_BYTES
        return wait is Wait.READER and self._stalls != stalls

    def _make_room(self) -> None:
        others = (each for each in self.connections if isinstance(each, Connection) and each is not self)
        waiting = [each for each in others if each.waits_for is Wait.HEAD and not each.transport.is_closing()]
        oldest = min(waiting, key=lambda each: each.began, default=self)
        oldest.cut(f"there are more than {self._most}")
