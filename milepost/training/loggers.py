"""Whom else a run tells: each logger hears its steps and checkpoints, in a thread of its own.

What a logger does, or fails to do, changes nothing of the training: it is given copies of facts, never waited for but a
moment at the end, and what it raises ends it alone, with one warning to the job. A run that was killed tells the
steps its earlier lives have told first, and it is the logger's to leave out what it has.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from milepost.errors import Error
from milepost.resources.jobs import Level
from milepost.resources.runs import CHECKPOINTS, MANIFEST, METRICS, CheckpointMetrics, RunEvent, RunSpec
from milepost.training import tensorboard, weights_and_biases
from milepost.training.directory import Directory

log = logging.getLogger(__name__)

#: How long the end of a run waits for its loggers: less than a server that stops waits for its children.
CLOSE_S = 10.0


class Logger(Protocol):
    """All its calls come from one thread, steps in order, a checkpoint after its step."""

    def step(self, step: int, at: int, metrics: Mapping[str, float]) -> None:
        """`at` is unix seconds; metrics go by the API's names: train_loss, full_valid_loss …"""
        ...

    def checkpoint(self, found: CheckpointMetrics) -> None: ...

    def close(self, *, failed: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """A logger to be: `open` gives it and where it writes, for people, or raises an `Error` that says why not."""

    name: str
    open: Callable[[], tuple[Logger, str]]


def asked_for(spec: RunSpec, path: Path) -> Sequence[Opening]:
    """The loggers of a run, always in this order."""
    found: list[Opening] = []
    if spec.tensorboard is not None:
        found.append(Opening("TensorBoard", partial(tensorboard.open_file, spec, Path(spec.tensorboard))))
    for number, each in enumerate(spec.integrations, start=1):
        opened = partial(weights_and_biases.open_run, spec, each.wandb, path, number)
        found.append(Opening("Weights & Biases", opened))
    return found


@contextlib.contextmanager
def reporting(run: Directory, openings: Sequence[Opening] | None = None, *, close_s: float = CLOSE_S) -> Iterator[None]:
    """While the block runs, its loggers hear what the run tells, what it told in earlier lives first."""
    wanted = asked_for(run.spec, run.path) if openings is None else openings
    posts = [_Post(run, number, each) for number, each in enumerate(wanted)]
    if not posts:
        yield
        return
    letters = _Letters(run, posts)
    run.listeners.append(letters.hear)
    failed = True
    try:
        yield
        failed = False
    finally:
        run.listeners.remove(letters.hear)
        deadline = time.monotonic() + close_s
        for post in posts:
            post.end(failed=failed)
        for post in posts:
            post.wait(deadline)


class _Letters:
    """From what a run tells to what its loggers are told: each step and each checkpoint once."""

    def __init__(self, run: Directory, posts: Sequence[_Post]) -> None:
        self._posts = posts
        self._published = {each.step: each for each in _checkpoints(run.path)}
        self._known = set(self._published)
        for event in run.told():
            self.hear(event)
        self._published.clear()

    def hear(self, told: RunEvent | CheckpointMetrics) -> None:
        if isinstance(told, CheckpointMetrics):
            if told.step not in self._known:
                self._known.add(told.step)
                self._post(lambda logger: logger.checkpoint(told))
        elif told.type == "metrics":
            step, metrics = told.data["step"], _floats(told.data)
            self._post(lambda logger: logger.step(step, told.at, metrics))
            if earlier := self._published.get(step):
                self._post(lambda logger: logger.checkpoint(earlier))

    def _post(self, letter: Letter) -> None:
        for post in self._posts:
            post.put(letter)


Letter = Callable[[Logger], None]


class _Post:
    """One logger, its thread, and what waits for it: some bytes a step."""

    def __init__(self, run: Directory, number: int, opening: Opening) -> None:
        self._run = run
        self._number = number
        self._opening = opening
        self._letters: SimpleQueue[Letter | None] = SimpleQueue()
        self._failed = False
        # A daemon, so that a library that hangs in it does not keep the process.
        self._thread = threading.Thread(target=self._work, name=opening.name, daemon=True)
        self._thread.start()

    def put(self, letter: Letter) -> None:
        if self._thread.is_alive():
            self._letters.put(letter)

    def end(self, *, failed: bool) -> None:
        self._failed = failed
        self._letters.put(None)

    def wait(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._warn("did not take everything before the run's process ended")

    def _work(self) -> None:
        try:
            logger, where = self._opening.open()
            self._run.notice(2 * self._number, f"{self._opening.name}: {where}")
            while (letter := self._letters.get()) is not None:
                letter(logger)
            logger.close(failed=self._failed)
        except Error as error:
            log.warning("%s: %s", self._opening.name, error.message)
            self._warn(error.message)
        except Exception as error:
            log.exception("%s", self._opening.name)
            self._warn(f"it has failed ({type(error).__name__}); the server's run.log of this job tells why")

    def _warn(self, why: str) -> None:
        message = f"{self._opening.name}: {why}. The training is not affected"
        self._run.notice(2 * self._number + 1, message, level=Level.WARN)


def _checkpoints(path: Path) -> Iterator[CheckpointMetrics]:
    for manifest in (path / CHECKPOINTS).glob(f"step-*/{MANIFEST}"):
        yield CheckpointMetrics.model_validate_json((manifest.parent / METRICS).read_bytes())


def _floats(data: Mapping[str, float | None]) -> dict[str, float]:
    """Those of an event; older versions wrote null for what was not a number."""
    rest = data.keys() - {"step", "total_steps"}
    return {name: float(value) for name, value in data.items() if name in rest and value is not None}
