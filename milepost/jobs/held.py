"""A job that a worker holds, and what it knows of its child."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from milepost.jobs import runs, trouble
from milepost.jobs.launchers import Child
from milepost.resources.jobs import JobProgress, Status
from milepost.resources.runs import Outcome, Progress, Task
from milepost.store import room

#: A job that is held and in one of these was paused while its child ran. It may be back in the queue since.
PAUSED = frozenset({Status.PAUSED, Status.QUEUED})

#: Outcomes after which a child will be started in the same directory: not before the old one has left it.
GOES_ON = frozenset({Outcome.PAUSED, Outcome.STOPPED})


@dataclass(slots=True)
class Run:
    """A job that is held, and its child. `ending_at` is when the child was first expected to end."""

    job_id: str
    task: Task
    directory: Path
    tail: runs.Tail
    notices: runs.Tail
    is_adopted: bool
    is_started: bool = False
    child: Child | None = None
    announced: set[int] = field(default_factory=set)
    deaths: int = 0
    died_at_step: int = -1
    errors: int = 0
    heartbeat_at: float = -inf
    renewed_at: float = -inf
    ending_at: float | None = None
    pulse: trouble.Pulse = field(default_factory=trouble.Pulse)
    is_silent: bool = False
    oom_kills: int = field(default_factory=trouble.oom_kills)

    def note_death(self, progress: Progress | None) -> int:
        """The step at which the child is dead. One that was gone before anybody looked after it says nothing of the job
        and does not count.
        """
        step = 0 if progress is None else progress.step
        counted = 0 if self.child is None else 1
        self.deaths = counted + (0 if step > self.died_at_step else self.deaths)
        self.died_at_step = max(step, self.died_at_step)
        return step

    def why_it_died(self, silence_s: float, *, is_memory: bool) -> str:
        """What is known of a child that is dead and has left no result."""
        if self.child is None:
            return "The job's process was gone when the server started."
        if runs.result(self.directory) is not None:
            return "The job's process was stopped before it was paused."
        if self.is_silent:
            return f"The job's process showed no sign of life for {silence_s:g} seconds and was killed."
        if is_memory:
            return "The job's process was ended, most likely by the kernel, which has killed for want of memory."
        return f"The job's process ended without a result ({self.child.how_it_ended()})."


def shown(progress: Progress | None) -> JobProgress | None:
    """What a job shows of its child's progress; nothing of a validation, which takes seconds."""
    if progress is None or progress.phase == "validating":
        return None
    return JobProgress(
        phase=progress.phase,
        step=progress.step,
        total_steps=progress.total_steps or None,
        tokens_per_s=progress.tokens_per_s,
    )


def stop_writing(folder: Path, held: Iterable[Run], least_bytes: int) -> None:
    """On a full disk: end what trains, and only then give the reserve up. A child that lived on would fill it with its
    next checkpoint, and nothing could be written of why jobs wait. What is ended goes on from its last saved state.
    """
    if room.free_bytes(folder) < least_bytes:
        for child in (run.child for run in held):
            if child is not None and child.is_alive():
                child.kill()
    room.break_into(folder)
