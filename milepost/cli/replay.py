"""`milepost replay`: a finished job trained once more, to the same bytes or to the first that differ."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost import config
from milepost.errors import NotFound

if TYPE_CHECKING:
    from milepost.training.replay import Verdict


def replay(
    job: Annotated[str, typer.Argument(help="The job's id, `ftjob-…`.")],
    data: Annotated[Path | None, typer.Option("--data", help="Data folder, instead of MILEPOST_DATA_DIR.")] = None,
) -> None:
    """Train a finished job once more, and compare: "same", or the first step and tensor that differ.

    The job and its data folder are only read. Ends with 0 if all is the same, with 1 if something differs.
    """
    from milepost.jobs import runs
    from milepost.resources.runs import Task
    from milepost.training.replay import replay as replay_run

    settings = config.load(os.environ, data_dir=data)
    run = runs.directory(settings.data_dir.resolve(), job, Task.TRAIN)
    if not re.fullmatch(r"ftjob-[A-Za-z0-9]+", job) or not run.is_dir():
        raise NotFound(f"There is no run of a job `{job}` in {settings.data_dir}")
    with tempfile.TemporaryDirectory(prefix="milepost-replay-") as scratch:
        typer.echo(f"Training {job} once more, in {scratch}", err=True)
        verdict = replay_run(run, Path(scratch), _train)
    for line in _lines(verdict):
        typer.echo(line)
    if not verdict.is_same:
        raise typer.Exit(1)


def _train(scratch: Path) -> None:
    """In a process like the job's own; what ends this command ends it too."""
    from milepost.jobs.launchers import TRAINING, child_environment
    from milepost.resources.runs import LOG

    with (scratch / LOG).open("wb") as log:
        subprocess.run(  # noqa: S603 (our own interpreter and module)
            [*TRAINING, str(scratch)], env=child_environment(os.environ), stdout=log, stderr=log, check=False
        )


def _lines(verdict: Verdict) -> list[str]:
    kind = "checkpoint" if verdict.checkpoints == 1 else "checkpoints"
    compared = f"{verdict.events} events, {verdict.checkpoints} {kind} with {verdict.tensors} tensors"
    if verdict.is_same:
        return [f"same: {compared}", *verdict.notes]
    reasons = verdict.reasons or ("not known: threads, dtype, processor and versions are what they were",)
    different = [f"different: {each}" for each in verdict.differences]
    return [*different, *(f"reason: {each}" for each in reasons), *verdict.notes]
