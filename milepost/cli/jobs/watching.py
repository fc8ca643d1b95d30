"""A job on the screen until it has ended: one request per look, its events mostly, and now and then the job itself."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from milepost.cli.following import FINAL, LOOK_S, Metrics, fresh_events
from milepost.cli.screen import Bar, Screen

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

#: Every so many looks the job is asked for its speed and the time left; after a message it is asked at once.
JOB_EVERY = 6
#: OpenAI's sentences, and so ours, that name a model: of a checkpoint, and of the last one.
CHECKPOINT = re.compile(r"Checkpoint created at step (?P<step>\d+) with Snapshot ID: (?P<model>\S+)")
TUNED = re.compile(r"New fine-tuned model created: (?P<model>\S+)")


class Speed(BaseModel):
    """`progress` of a job: an extra field of Milepost's."""

    model_config = ConfigDict(extra="ignore")

    tokens_per_s: float | None = None


class Told(BaseModel):
    """The extra fields of a job that are shown; other servers have none."""

    model_config = ConfigDict(extra="ignore")

    progress: Speed | None = None


async def watch_job(client: AsyncOpenAI, job_id: str, screen: Screen, look_s: float = LOOK_S) -> FineTuningJob:
    """Show a job, its past first, until it has ended; returns it as it is then."""
    job = await client.fine_tuning.jobs.retrieve(job_id)
    screen.say(f"{job.id} · {job.model} · {job.status}", "bold")
    seen: set[str] = set()
    looks, stirred = 0, False
    with screen.bar() as bar:
        view = _View(screen, bar)
        view.look_at(job)
        while True:
            # What has happened before it ended is told: the events are asked for once more after the end was seen.
            is_over = job.status in FINAL
            fresh = await fresh_events(client, job_id, seen)
            for event in fresh:
                view.hear(event)
            if is_over:
                break
            stirred = stirred or any(event.type == "message" for event in fresh)
            looks += 1
            await asyncio.sleep(look_s)
            if stirred or looks % JOB_EVERY == 0:
                job, stirred = await client.fine_tuning.jobs.retrieve(job_id), False
                view.look_at(job)
                if job.status not in FINAL:
                    await asyncio.sleep(look_s)
    _say_how_it_ended(screen, job)
    return job


class _View:
    """What is on the screen. `_losses` of steps wait for the message that a checkpoint of theirs is there."""

    def __init__(self, screen: Screen, bar: Bar) -> None:
        self._screen = screen
        self._bar = bar
        self._losses: dict[int, Metrics] = {}
        self._last: Metrics | None = None
        self._step = 0  # told of last, with metrics or, if it was skipped, without
        self._tokens_per_s: float | None = None
        self._finish: int | None = None

    def look_at(self, job: FineTuningJob) -> None:
        progress = Told.model_validate(job.model_extra or {}).progress
        self._tokens_per_s = progress.tokens_per_s if progress else None
        self._finish = job.estimated_finish
        self._move()

    def hear(self, event: FineTuningJobEvent) -> None:
        told = event.data if isinstance(event.data, dict) else {}
        if isinstance(step := told.get("step"), int):
            self._step = max(self._step, step)
        if event.type == "metrics":
            try:
                self._last = Metrics.model_validate(event.data)
            except ValidationError:  # another server's: its sentence says what it can
                self._screen.say(event.message, "dim")
                return
            self._losses[self._last.step] = self._last
            self._move()
        elif created := CHECKPOINT.search(event.message):
            self._say_checkpoint(int(created["step"]), created["model"])
        elif (tuned := TUNED.search(event.message)) and self._step:
            self._say_checkpoint(self._step, tuned["model"])
        else:
            style = {"warn": "yellow", "error": "red"}.get(event.level, "dim")
            self._screen.say(event.message if event.level == "info" else f"{event.level}: {event.message}", style)

    def _move(self) -> None:
        if self._last is not None:
            left_s = None if self._finish is None else self._finish - time.time()
            self._bar.move(self._step, self._last.total_steps, self._last.train_loss, self._tokens_per_s, left_s)

    def _say_checkpoint(self, step: int, model: str) -> None:
        found = self._losses.get(step)
        full, valid = (found.full_valid_loss, found.valid_loss) if found else (None, None)
        loss = ("full_valid_loss", full) if full is not None else ("valid_loss", valid)
        said = "" if loss[1] is None else f" · {loss[0]} {loss[1]:.4f}"
        self._screen.say(f"✓ checkpoint · step {step}{said} · {model}", "green")


def _say_how_it_ended(screen: Screen, job: FineTuningJob) -> None:
    if job.status == "succeeded":
        screen.say(f"succeeded · {job.trained_tokens or 0:,} tokens trained · {job.fine_tuned_model}", "bold")
    elif job.error and job.error.message:
        screen.say(f"{job.status}: {job.error.message}", "bold")
    else:
        screen.say(job.status, "bold")
