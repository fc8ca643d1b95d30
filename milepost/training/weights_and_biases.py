"""A run at Weights & Biases, if its library is installed: `pip install 'milepost[wandb]'`.

The key comes in this process's environment (WANDB_API_KEY), from the server's setting, and is never read here. A step
is handed over at most once: the last one is noted first. What W&B's own process had not sent when the machine
died is missing there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from milepost.errors import Unavailable
from milepost.resources.jobs import WandbRun
from milepost.resources.runs import CheckpointMetrics, RunSpec

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

INIT_S = 30.0


class Run:
    """A run of W&B, whose id is that of the job: a job that goes on reports to the run that it had."""

    def __init__(self, run: wandb.Run, note: Path) -> None:
        self._run = run
        self._note = note
        self._last_step = int(note.read_text()) if note.exists() else 0
        self._checkpoints: list[int] = []

    def step(self, step: int, at: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002 (W&B has its own clock)
        if step <= self._last_step:
            return
        self._last_step = step
        draft = self._note.with_suffix(".draft")
        draft.write_text(str(step))
        draft.rename(self._note)
        self._run.log(dict(metrics), step=step)

    def checkpoint(self, found: CheckpointMetrics) -> None:
        self._checkpoints.append(found.step)
        self._run.summary["checkpoints"] = list(self._checkpoints)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def open_run(spec: RunSpec, asked: WandbRun, path: Path, number: int) -> tuple[Run, str]:
    """Begin the run, or go on with it. Of this machine it is told nothing but the names of installed packages."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise Unavailable(
            "nothing is sent, since wandb is not installed on this server (pip install 'milepost[wandb]')"
        ) from None
    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        silent=True,
        init_timeout=INIT_S,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )
    given = {"model": spec.base.name, "method": str(spec.method), "seed": spec.seed}
    try:
        run = wandb.init(
            project=asked.project,
            entity=asked.entity,
            name=asked.name or spec.job_id,
            id=asked.run_id,
            tags=list(asked.tags),
            config=given | spec.hyperparameters.model_dump(mode="json"),
            dir=path,
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
    except wandb.errors.UsageError as error:  # no key, one that is too short, a project of a name it does not allow
        log.warning("Weights & Biases: %s", error)
        raise Unavailable(
            "nothing is sent, since this server has no key for it (MILEPOST_WANDB_API_KEY) or its library refuses the "
            "run; the server's run.log of this job tells which"
        ) from None
    where = run.url or f"the run of project {asked.project} is kept on the server, as WANDB_MODE says"
    return Run(run, path / f"wandb-{number}.step"), where
