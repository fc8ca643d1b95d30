"""An engine that is a task of the test's own loop, at the other end of the socket pair."""

from __future__ import annotations

import asyncio
import socket

from milepost.resources.runs import Source
from milepost.serving.protocol import (
    LENGTH,
    TO_ENGINE,
    Answer,
    Chunk,
    Count,
    Counts,
    FromEngine,
    Generate,
    Load,
    Loaded,
    Ready,
    ToEngine,
    Usage,
    frame,
)


class Clock:
    """Moves when a test says so."""

    now = 5000.0

    def __call__(self):
        return self.now


class FakeProcess:
    """What a client holds of an engine. `heard` is all it was told; `crash` ends it as a killed process ends."""

    def __init__(self, base: Source, end: socket.socket, first: FromEngine | None) -> None:
        self.base = base
        self.heard: asyncio.Queue[ToEngine] = asyncio.Queue()
        self.ended = asyncio.Event()
        self._end = end
        self._first = first
        self._task = asyncio.create_task(self._run())

    def kill(self) -> None:
        self._task.cancel()

    crash = kill

    async def wait(self) -> int:
        await self.ended.wait()
        return -9

    def say(self, message: FromEngine) -> None:
        self._writer.write(frame(message))

    async def _run(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._end)
        try:
            if self._first is None:
                return
            self.say(self._first)
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                message = TO_ENGINE.validate_json(await reader.readexactly(length))
                self.heard.put_nowait(message)
                self._answer(message)
        finally:
            self._writer.close()
            self.ended.set()

    def _answer(self, message: ToEngine) -> None:
        """A prompt is said again; `…` is begun and never ended."""
        if isinstance(message, Count):
            self.say(Answer(id=message.id, body=COUNTS))
        if isinstance(message, Load):
            self.say(Answer(id=message.id, body=Loaded()))
        if isinstance(message, Generate):
            text = message.generation.prompt or ""
            self.say(Answer(id=message.id, body=Chunk(index=0, text=text)))
            if text != "…":
                self.say(Answer(id=message.id, body=Chunk(index=0, text="", finish_reason="stop")))
                self.say(Answer(id=message.id, body=Usage(prompt_tokens=1, completion_tokens=1)))


class FakeLauncher:
    """Starts fake engines, whose first words are these, and READY when they are used up."""

    def __init__(self, *firsts: FromEngine | None) -> None:
        self.firsts: list[FromEngine | None] = list(firsts)
        self.started: list[FakeProcess] = []

    async def __call__(self, base: Source, end: socket.socket) -> FakeProcess:
        first = self.firsts.pop(0) if self.firsts else READY
        self.started.append(FakeProcess(base, end, first))
        return self.started[-1]


COUNTS = Counts(
    running=1, waiting=2, adapters_found={"slot": 3, "memory": 4, "disk": 5}, adapters_evicted={"slot": 6, "memory": 7}
)
READY = Ready(dtype="float32", threads=1)
