"""The torch-free front of the engines, which the API uses.

An engine is a process per base model, started when first asked for and again after it died. Client and engine hold
the two ends of a socket pair: the engine's end is its stdin, as inetd does it. So there is no path to guard or to clean
up, the first frame tells when the engine is ready, and the end of either side is at once the end of the other's stream.
An engine keeps nothing that could be lost, so it is ended by a kill.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

from milepost.errors import Error, Unavailable
from milepost.resources.runs import Source
from milepost.serving.protocol import (
    FROM_ENGINE,
    LENGTH,
    NO_LIMITS,
    Answer,
    Cancel,
    Chunk,
    Count,
    Counts,
    Failure,
    FromEngine,
    Generate,
    Generation,
    Limits,
    Load,
    Loaded,
    ToEngine,
    Usage,
    frame,
    to_error,
    to_failure,
)
from milepost.serving.waiting import Flights, Waiting, stopping

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What answers for base models and their adapters; `tests/contract/test_engine.py` says what is expected of one."""

    def generate(self, request: Generation) -> AsyncGenerator[Chunk | Usage]:
        """Chunks as they are made, the usage last. Closing the generator cancels the request.

        Raises `Invalid` for a prompt that does not fit the context, `NotFound` or `Corrupt` for weights that are not
        there or not those of the hash, `Exhausted` when too many of the client's requests wait already, `Unavailable`
        when the engine dies or is told to stop.
        """
        ...

    async def warm(self, base: Source, adapter: Source | None = None) -> None:
        """Load ahead, so that the first request need not wait; raises what `generate` would."""
        ...

    def is_up(self, base: Source) -> bool:
        """Whether a request for this base would be answered without an engine being started first."""
        ...

    async def counts(self) -> Mapping[str, Counts]:
        """By the name of its base, what each engine that is up does; one too busy to say so soon is left out."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Take no more requests; those in flight may end, and after `grace_s` are ended with `Unavailable`."""
        ...


class Process(Protocol):
    """The part of `asyncio.subprocess.Process` that is used here."""

    def kill(self) -> None: ...
    async def wait(self) -> int: ...


#: Starts an engine for a base, with one end of a socket pair to speak over. The launcher closes its copy of that end.
Launch = Callable[[Source, socket.socket], Awaitable[Process]]


def launcher(*, threads: int, log_file: Path, environment: Mapping[str, str], limits: Limits = NO_LIMITS) -> Launch:
    """Launch `python -m milepost.serving` in a session of its own, with this environment and no other.

    What it prints is appended to `log_file`.
    """

    async def launch(base: Source, end: socket.socket) -> Process:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        command = (sys.executable, "-m", "milepost.serving", base.path, base.hash)
        options = ("--threads", str(threads), "--limits", limits.model_dump_json())
        with end, log_file.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                *options,
                env=dict(environment),
                stdin=end.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    return launch


class Engines:
    """The engine processes of this server, one per base hash. Leaving its `async with` ends them all.

    Of each client's requests at most `most_waiting` wait for their answers.
    """

    def __init__(self, launch: Launch, *, most_waiting: int = 256) -> None:
        self._launch = launch
        self._waiting = Waiting(most_waiting)
        self._links: dict[str, asyncio.Task[_Link]] = {}
        self._flights = Flights()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        starts, self._links = list(self._links.values()), {}
        for start in starts:
            start.cancel()
        for link in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(link, _Link):
                await link.aclose()

    async def generate(self, request: Generation) -> AsyncGenerator[Chunk | Usage]:
        with self._flights.one(), self._waiting.place(request) as answered:
            link = await self._link(request.base)
            answers = link.ask(lambda number: Generate(id=number, generation=request))
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    answered()
                    if isinstance(answer, Chunk | Usage):
                        yield answer

    async def warm(self, base: Source, adapter: Source | None = None) -> None:
        link = await self._link(base)
        if adapter is None:
            return
        answers = link.ask(lambda number: Load(id=number, adapter=adapter))
        async with contextlib.aclosing(answers):
            async for _ in answers:
                pass

    def is_up(self, base: Source) -> bool:
        start = self._links.get(base.hash)
        return start is not None and start.done() and not _is_over(start)

    async def counts(self) -> Mapping[str, Counts]:
        up = [start.result() for start in self._links.values() if start.done() and not _is_over(start)]
        told = await asyncio.gather(*(link.counts() for link in up))
        return {link.name: counts for link, counts in zip(up, told, strict=True) if counts is not None}

    async def stop(self, grace_s: float) -> None:
        await self._flights.land(grace_s)
        for start in self._links.values():
            start.cancel()  # of one that has not started yet: who waits for it is told below
            if not _is_over(start) and start.done():
                start.result().fail(stopping())

    async def _link(self, base: Source) -> _Link:
        """The living engine of this base. Those who ask while it starts wait for the one start, and share its error."""
        start = self._links.get(base.hash)
        if start is None or _is_over(start):
            start = self._links[base.hash] = asyncio.create_task(_start(self._launch, base))
        try:
            return await asyncio.shield(start)
        except asyncio.CancelledError:
            if start.cancelled() and self._flights.is_stopping:
                raise stopping() from None
            raise


def _is_over(start: asyncio.Task[_Link]) -> bool:
    """Whether the start failed, or the engine it started has died since."""
    return start.done() and (start.cancelled() or start.exception() is not None or start.result().is_dead)


async def _start(launch: Launch, base: Source) -> _Link:
    ours, theirs = socket.socketpair()
    try:
        process = await launch(base, theirs)
    except BaseException:  # cancellation too: an engine that did start ends when this end closes
        ours.close()
        raise
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    link = _Link(base.name, process, reader, writer)
    try:
        await link.ready
    except BaseException:  # the caller's cancellation too: nobody else knows of this process
        await link.aclose()
        raise
    log.info("engine of %s is ready", base.name)
    return link


#: How long an engine whose end of the socket has closed may take to end by itself.
GRACE_S = 5.0

#: Answers after which none follows.
LAST = (Usage, Loaded, Counts, Failure)

#: How long an engine may take to say what it does: some steps, each a piece of a prompt long.
COUNTS_S = 2.0


class _Link:
    """One engine process and the requests it is answering. Dead once the engine's end of the socket is closed."""

    def __init__(self, name: str, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._process = process
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[Chunk | Usage | Loaded | Counts | Failure]] = {}
        self.is_dead = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.create_task(self._listen())

    async def aclose(self) -> None:
        self._process.kill()
        await self._listening

    async def counts(self) -> Counts | None:
        answers = self.ask(lambda number: Count(id=number))
        with contextlib.suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(COUNTS_S), contextlib.aclosing(answers):
                async for answer in answers:
                    if isinstance(answer, Counts):
                        return answer
        return None

    def fail(self, error: Error) -> None:
        """End all requests in flight with this error."""
        for answers in self._answers.values():
            answers.put_nowait(to_failure(error))

    async def ask(self, message: Callable[[int], ToEngine]) -> AsyncGenerator[Chunk | Usage | Loaded | Counts]:
        """Send a numbered request and yield its answers; left early, the engine is told to stop."""
        number = next(self._numbers)
        answers = self._answers[number] = asyncio.Queue()
        ended = False
        try:
            self._send(message(number))
            while not ended:
                answer = await answers.get()
                ended = isinstance(answer, LAST)
                if isinstance(answer, Failure):
                    raise to_error(answer)
                yield answer
        finally:
            self._answers.pop(number, None)
            if not ended:
                self._send(Cancel(id=number))

    def _send(self, message: ToEngine) -> None:
        """Without waiting: requests are small, and the engine reads them in a thread of its own."""
        if self.is_dead:
            if not isinstance(message, Cancel):
                raise self._death()
            return
        self._writer.write(frame(message))

    async def _listen(self) -> None:
        """Hand each answer to whoever asked, until the engine's end closes; then fail all who still wait."""
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                self._hear(FROM_ENGINE.validate_json(await self._reader.readexactly(length)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await self._bury()

    async def _bury(self) -> None:
        self.is_dead = True
        self._writer.close()
        try:  # a kill would reap one that has just died, and its exit code with it
            code = await asyncio.wait_for(self._process.wait(), GRACE_S)
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        log.info("engine of %s ended with code %s", self.name, code)
        self.fail(self._death())
        if not self.ready.done():
            self.ready.set_exception(self._death())

    def _hear(self, message: FromEngine) -> None:
        if isinstance(message, Answer):
            if answers := self._answers.get(message.id):  # else it was cancelled while this was on its way
                answers.put_nowait(message.body)
        elif self.ready.done():  # nobody waits for it any more: its start was given up
            return
        elif isinstance(message, Failure):
            self.ready.set_exception(to_error(message))
        else:
            self.ready.set_result(None)

    def _death(self) -> Unavailable:
        return Unavailable(f"The engine of `{self.name}` ended before it had answered. Try again")
