"""What the demo measured: shown at its end, and written by `--report FILE`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """`ready_s`: from publication to the first token it answered. Publication is taken as the last look at the list
    of checkpoints that did not show it yet, so the number is never too small, and too large by one look at most;
    null for a checkpoint that was there at the first look: an earlier run's, or one published while the base was
    asked. `ready_ms` is what the server measured, null where it had no engine up.
    """

    model: str
    step_number: int
    ready_s: float | None
    ready_ms: int | None
    answered_while_running: bool
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowsRight:
    """How many of `of` held-out questions each model's SQL answered with exactly the expected rows."""

    base: int
    final: int
    of: int


@dataclass(slots=True)
class Report:
    """Filled in as the demo goes on. `phases` are seconds."""

    phases: dict[str, float] = field(default_factory=dict)
    train_tokens_per_s: float | None = None
    checkpoints: list[CheckpointFacts] = field(default_factory=list)
    rows_right: RowsRight | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.phases[name] = round(time.perf_counter() - began, 2)

    def write(self, path: Path) -> None:
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n")
