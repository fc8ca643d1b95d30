"""The child's side of a run directory: it holds the lock, tells events and progress, and hears what is wanted.

An event is told once, however often its step is computed: those up to the last child_seq on disk are known already.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Literal

from pydantic import ValidationError

from milepost.errors import Conflict
from milepost.modeling import folders, machine
from milepost.resources.jobs import Level
from milepost.resources.runs import (
    BUSY,
    CONTROL,
    EVENTS,
    FIRST_SEQ,
    JOB,
    LOCK,
    NOTICE_SEQ,
    NOTICES,
    PROGRESS,
    RESULT,
    CheckpointMetrics,
    Control,
    Outcome,
    Progress,
    Result,
    RunEvent,
    RunSpec,
    Wanted,
    readable,
)

#: Which outcome ends a run of which something else is wanted.
OUTCOMES = {Wanted.PAUSE: Outcome.PAUSED, Wanted.STOP: Outcome.STOPPED}

#: The share of its speed that a run keeps while it gives way to chats.
LEAST_SHARE = 0.6

_NAP_S = 0.01
_PATIENCE_S = 2.0
_HEARTBEAT_S = 0.5
_FREE_S = 1.0
#: Chats ask for room one second ahead: what is further away than this was said before the time of day was set back.
_MOST_AHEAD_S = 60.0
#: For leases: it goes on while the machine sleeps, in which another worker may have taken the job.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Directory:
    """A run directory, held by this process. `seq` is the child_seq of the last event told or passed over."""

    def __init__(self, path: Path, events: BinaryIO) -> None:
        self.path = path
        self.spec = RunSpec.model_validate_json((path / JOB).read_bytes())
        self.seq = FIRST_SEQ[self.spec.task] - 1
        self.listeners: list[Callable[[RunEvent | CheckpointMetrics], None]] = []
        self._events = events
        self._last_seq = _trim(events, self.seq)
        self._is_told_to_end = False
        self._lease: float | None = None
        self._lease_ends = 0.0
        self._beat_at = -_HEARTBEAT_S
        self._began = time.monotonic()
        self._earlier = self._read_progress()
        self._computing_since = time.monotonic()
        self._cores = machine.cores()
        self._free_at = 0.0

    def tell(
        self,
        message: str,
        *,
        level: Level = Level.INFO,
        kind: Literal["message", "metrics"] = "message",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Append an event, unless an earlier life of this run has told it."""
        self.seq += 1
        if self.seq <= self._last_seq:
            return
        event = RunEvent(
            child_seq=self.seq, at=int(time.time()), level=level, type=kind, message=message, data=dict(data or {})
        )
        self._events.write(event.model_dump_json().encode() + b"\n")
        self._events.flush()
        self._say(event)

    @property
    def told_seq(self) -> int:
        """The child_seq of the last event on disk when this process began."""
        return self._last_seq

    def told(self) -> list[RunEvent]:
        """Every event on disk, those of earlier lives too."""
        self._events.seek(0)
        return readable(self._events.read())[0]

    def published(self, found: CheckpointMetrics) -> None:
        """Tell the listeners of a checkpoint that is there; perhaps it was before."""
        self._say(found)

    def notice(self, number: int, message: str, *, level: Level = Level.INFO) -> None:
        """Say something that is no part of the run's history; each number is heard once. From any thread."""
        event = RunEvent(child_seq=NOTICE_SEQ + number, at=int(time.time()), level=level, message=message)
        with (self.path / NOTICES).open("ab") as notices:
            notices.write(event.model_dump_json().encode() + b"\n")

    def _say(self, told: RunEvent | CheckpointMetrics) -> None:
        for listener in self.listeners:
            listener(told)

    def sync(self) -> None:
        """Before a checkpoint or a state is published: on disk, events must never lag behind them."""
        os.fsync(self._events.fileno())

    def interruption(self) -> Outcome | None:
        """What to end as, if the run should not go on: a signal, another wish in control.json, a lease run out."""
        if self._is_told_to_end:
            return Outcome.STOPPED
        try:
            control = Control.model_validate_json((self.path / CONTROL).read_bytes())
        except FileNotFoundError:  # run by hand
            return None
        except ValidationError:  # a bad disk: who knows until when the lease was
            return Outcome.STOPPED
        if control.lease_until is not None and self._has_run_out(control):
            return Outcome.STOPPED
        return OUTCOMES.get(control.wanted)

    def _has_run_out(self, control: Control) -> bool:
        now = time.clock_gettime(_CLOCK)
        if control.lease_until != self._lease:
            self._lease, self._lease_ends = control.lease_until, now + control.lease_s
        return now >= self._lease_ends

    def give_way(self) -> None:
        """Pause while chats need the machine, but keep LEAST_SHARE of the speed: for so long as was computed before."""
        now, flag = time.monotonic(), self.path.resolve().parent.parent / BUSY
        until = now + (now - self._computing_since) * (1 / LEAST_SHARE - 1)
        while time.monotonic() < until and _is_busy(flag):
            time.sleep(_NAP_S)
        self._computing_since = time.monotonic()
        if now > self._free_at and self._cores:  # an engine that has died may have left it few
            self._free_at = now + _FREE_S
            machine.keep_to(os.getpid(), self._cores)

    def beat(self, phase: Any, **facts: Any) -> None:
        """Show life and progress, twice a second at most; not fsynced, since none of it outlives the process."""
        clock = time.monotonic()  # the time of day may be set back
        if clock < self._beat_at + _HEARTBEAT_S and phase != "done":
            return
        self._beat_at = clock
        progress = Progress(
            heartbeat=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
            phase=phase,
            spent_s=self._earlier.spent_s + time.monotonic() - self._began,
            peak_memory_bytes=max(self._earlier.peak_memory_bytes, machine.peak_memory_bytes()),
            **facts,
        )
        draft = self.path / f".{PROGRESS}.draft"
        draft.write_text(progress.model_dump_json(), encoding="utf-8")
        draft.rename(self.path / PROGRESS)

    def finish(self, result: Result) -> None:
        """The last file written: whoever finds it finds everything else in place."""
        self.sync()
        folders.replace(self.path / RESULT, result.model_dump_json(indent=1))

    def earlier_result(self) -> Result | None:
        """What an earlier life ended with, if there is nothing left to do."""
        try:
            result = Result.model_validate_json((self.path / RESULT).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:  # a bad disk: what it said is computed again
            result = Result(outcome=Outcome.STOPPED)
        if result.outcome in {Outcome.SUCCEEDED, Outcome.VALIDATED}:
            return result
        (self.path / RESULT).unlink()
        return None

    def _read_progress(self) -> Progress:
        """What an earlier life showed last: time spent and memory go on from there."""
        try:
            return Progress.model_validate_json((self.path / PROGRESS).read_bytes())
        except (FileNotFoundError, ValidationError):  # written without fsync: a power cut may have torn it
            return Progress(heartbeat=0.0, pid=0, phase="starting")

    def hear(self, _number: int, _frame: FrameType | None) -> None:
        """A signal is a request: the run ends where its state can be saved."""
        self._is_told_to_end = True


@contextlib.contextmanager
def held(path: Path) -> Iterator[Directory]:
    """The directory with its lock, SIGTERM and SIGINT heard by it; raises `Conflict` if another process holds it."""
    with (path / LOCK).open("ab") as lock, (path / EVENTS).open("a+b") as events:
        _take(lock, path)
        directory = Directory(path, events)
        directory.beat("starting")  # with its process id, so that it can be ended if it hangs from here on
        before = {number: signal.signal(number, directory.hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield directory
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _take(lock: BinaryIO, path: Path) -> None:
    """Patiently: who asks whether a child lives holds the lock for a moment."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(f"Another process is training in {path}") from None
            time.sleep(0.02)
        else:
            return


def _is_busy(flag: Path) -> bool:
    try:
        return 0.0 < flag.stat().st_mtime - time.time() < _MOST_AHEAD_S
    except FileNotFoundError:
        return False


def _trim(events: BinaryIO, none_yet: int) -> int:
    """Cut off what is not whole; returns the child_seq of the last event before it.

    A process that was killed leaves a torn last line. After a power cut anything may stand where nothing was fsynced
    yet: a page of zeros, and whole lines behind it. No state counts events that were not on disk: they are told anew.
    """
    events.seek(0)
    told, size = readable(events.read())
    events.truncate(size)
    return told[-1].child_seq if told else none_yet
