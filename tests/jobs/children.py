"""Stand-ins for training: what a child writes into its run directory, and a launcher whose children the test plays."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from milepost.jobs.launchers import NO_SECRETS, Child
from milepost.resources.checkpoints import Metrics
from milepost.resources.runs import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    EVENTS,
    LOG,
    MANIFEST,
    METRICS,
    PROGRESS,
    RESULT,
    CheckpointMetrics,
    Manifest,
    Outcome,
    Progress,
    Result,
    RunEvent,
)


def write_checkpoint(
    folder: Path, *, step: int, final: bool = False, full_valid_loss: float | None = None, weights: str | None = None
) -> Path:
    """A whole checkpoint; its weights are told apart by the step and the folder."""
    folder.mkdir(parents=True)
    measured = CheckpointMetrics(
        step=step,
        total_steps=4,
        epoch=1.0,
        final=final,
        metrics=Metrics(step=step, train_loss=0.5, full_valid_loss=full_valid_loss),
    )
    content = {
        ADAPTER_WEIGHTS: (weights or f"weights of {folder}").encode(),
        ADAPTER_CONFIG: b"{}",
        METRICS: measured.model_dump_json().encode(),
    }
    for name, value in content.items():
        (folder / name).write_bytes(value)
    manifest = Manifest(sha256={name: hashlib.sha256(value).hexdigest() for name, value in content.items()})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


@dataclass
class Played:
    """A child that the test plays: it writes what the test says, and lives until the test ends it."""

    directory: Path
    alive: bool = True
    seq: int = field(default=0)
    secrets: Mapping[str, str] = field(default_factory=dict)

    def is_alive(self) -> bool:
        return self.alive

    def kill(self) -> None:
        self.alive = False

    def how_it_ended(self) -> str:
        return "killed by SIGKILL"

    def tell(self, message: str, **event: object) -> None:
        self.seq += 1
        line = RunEvent(child_seq=self.seq, at=1_795_000_100, message=message, **event).model_dump_json()
        with (self.directory / EVENTS).open("a") as events:
            events.write(line + "\n")

    def take_step(self, step: int, **metrics: float) -> None:
        data = {"step": step, "total_steps": 4, **metrics}
        self.tell(f"Step {step}/4: training loss={metrics['train_loss']:.2f}", type="metrics", data=data)
        self.show_progress(step)

    def show_progress(self, step: int, **facts: float) -> None:
        progress = Progress(heartbeat=1_795_000_100, pid=1, phase="training", step=step, total_steps=4, **facts)
        (self.directory / PROGRESS).write_text(progress.model_dump_json())

    def save(self, step: int, *, final: bool = False) -> None:
        write_checkpoint(self.directory / "checkpoints" / f"step-{step}", step=step, final=final)

    def finish(self, outcome: Outcome, **result: object) -> None:
        (self.directory / RESULT).write_text(Result(outcome=outcome, **result).model_dump_json())
        self.alive = False

    def wanted(self) -> str:
        return str(json.loads((self.directory / "control.json").read_text())["wanted"])


class Stage:
    """A launcher whose children the test plays. `script`, if given, is played by each child as it starts."""

    def __init__(self, script: Callable[[Played], None] | None = None) -> None:
        self.children: list[Played] = []
        self.is_warm = False
        self._script = script

    def launch(self, directory: Path, secrets: Mapping[str, str] = NO_SECRETS) -> Child:
        (directory / LOG).touch()
        child = Played(directory, seq=self._seq(directory), secrets=secrets)
        self.children.append(child)
        if self._script:
            self._script(child)
        return child

    def find(self, directory: Path) -> Child | None:
        return next((child for child in self.children if child.directory == directory and child.alive), None)

    def warm(self) -> None:
        self.is_warm = True

    def let_go(self) -> None:
        self.is_warm = False

    @staticmethod
    def _seq(directory: Path) -> int:
        events = directory / EVENTS
        return len(events.read_text().splitlines()) if events.exists() else 0


def validates(child: Played) -> None:
    """Finds every file good, at once; trains only as the test says."""
    if child.directory.name == "validate":
        child.finish(Outcome.VALIDATED, training_tokens=1000)
