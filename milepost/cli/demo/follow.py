"""A job while it runs, seen through the API alone: its events, and each checkpoint the moment it answers."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from milepost.cli.demo.exam import MAX_TOKENS
from milepost.cli.demo.questions import prompt
from milepost.cli.demo.report import CheckpointFacts
from milepost.cli.following import FINAL, LOOK_S, Metrics, fresh_events

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
    from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint


@dataclass(frozen=True, slots=True)
class Tried:
    """A checkpoint, and what it said to the questions shown."""

    facts: CheckpointFacts
    answers: Sequence[str]


OnEvent = Callable[["FineTuningJobEvent"], None]
OnTried = Callable[[Tried], Awaitable[None]]


async def follow(
    client: AsyncOpenAI, job_id: str, questions: Sequence[str], on_event: OnEvent, on_tried: OnTried
) -> list[Tried]:
    """Tell each event of a job, and chat with each of its checkpoints as soon as it is there, until the job has ended.

    The job itself is asked for only after a message, since its end is told by one; its checkpoints at every look, or
    it could not be said how soon each answered. Returns the checkpoints oldest first.
    """
    tries: list[asyncio.Task[Tried]] = []
    seen: set[str] = set()
    last_look: float | None = None
    stirred, ended = True, False
    async with asyncio.TaskGroup() as group:
        while not ended:
            # Asked before the events, so that the last look comes after the last event.
            ended = stirred and (await client.fine_tuning.jobs.retrieve(job_id)).status in FINAL
            look = time.perf_counter()
            fresh = await fresh_events(client, job_id, seen)
            for event in fresh:
                on_event(event)
            stirred = any(event.type == "message" for event in fresh)
            published = await _checkpoints(client, job_id, len(tries))
            tries += [group.create_task(_try(client, each, questions, last_look, on_tried)) for each in published]
            last_look = look
            await asyncio.sleep(0 if ended else LOOK_S)
    return [each.result() for each in tries]


async def _checkpoints(client: AsyncOpenAI, job_id: str, known: int) -> list[FineTuningJobCheckpoint]:
    """Checkpoints beyond the `known` first ones, oldest first."""
    listed = await client.fine_tuning.jobs.checkpoints.list(job_id, limit=100)
    return listed.data[: len(listed.data) - known][::-1]


async def _try(
    client: AsyncOpenAI,
    checkpoint: FineTuningJobCheckpoint,
    questions: Sequence[str],
    unpublished: float | None,
    on_tried: OnTried,
) -> Tried:
    """Ask one checkpoint; `unpublished` is when it was last looked for and not there, if it ever was."""
    model = checkpoint.fine_tuned_model_checkpoint
    answers = await asyncio.gather(*(_stream(client, model, question) for question in questions))
    job = await client.fine_tuning.jobs.retrieve(checkpoint.fine_tuning_job_id)
    again = await client.fine_tuning.jobs.checkpoints.list(job.id, limit=100)
    measured = {each.id: (each.model_extra or {}).get("ready_ms") for each in again.data}
    facts = CheckpointFacts(
        model=model,
        step_number=checkpoint.step_number,
        ready_s=None if unpublished is None else round(min(first for _, first in answers) - unpublished, 2),
        ready_ms=measured.get(checkpoint.id),
        answered_while_running=job.status == "running",
        metrics=checkpoint.metrics.model_dump(exclude_none=True),
    )
    tried = Tried(facts, [text for text, _ in answers])
    await on_tried(tried)
    return tried


async def _stream(client: AsyncOpenAI, model: str, question: str) -> tuple[str, float]:
    """The whole answer, and when its first token came."""
    first: float | None = None
    text = ""
    chunks = await client.chat.completions.create(
        model=model, messages=prompt(question), max_tokens=MAX_TOKENS, temperature=0, stream=True
    )
    async for chunk in chunks:
        said = chunk.choices[0].delta.content
        first = first or (time.perf_counter() if said else None)
        text += said or ""
    return text.strip(), first or time.perf_counter()


class Pace:
    """How fast a job goes, by the times of its latest metrics events."""

    WINDOW = 20

    def __init__(self, training_file: str, n_epochs: int) -> None:
        self._training_file = training_file
        self._n_epochs = n_epochs
        self._tokens = 0  # over all epochs
        self._latest: deque[tuple[int, int]] = deque(maxlen=self.WINDOW)  # (time, step)

    def hear(self, event: FineTuningJobEvent) -> None:
        """Take the number of tokens from the message that tells it."""
        told = event.data
        if isinstance(told, dict) and told.get("file") == self._training_file and "tokens" in told:
            self._tokens = self._n_epochs * told["tokens"]

    def at(self, event: FineTuningJobEvent) -> tuple[int, int, float | None, float | None, float | None]:
        """(step, total steps, loss, tokens per second, seconds left) at a metrics event."""
        told = Metrics.model_validate(event.data)
        self._latest.append((event.created_at, told.step))
        began, first = self._latest[0]
        if event.created_at == began:
            return told.step, told.total_steps, told.train_loss, None, None
        steps_per_s = (told.step - first) / (event.created_at - began)
        left_s = (told.total_steps - told.step) / steps_per_s
        return told.step, told.total_steps, told.train_loss, steps_per_s * self._tokens / told.total_steps, left_s


async def tokens_per_s(client: AsyncOpenAI, job: FineTuningJob) -> float | None:
    """Tokens trained per second from the first step's event to the last's, evaluations and checkpoints included."""
    times = [
        event.created_at
        async for event in client.fine_tuning.jobs.list_events(job.id, limit=100)
        if event.type == "metrics"
    ]
    span = times[0] - times[-1] if times else 0
    if not span or not job.trained_tokens:
        return None
    return round(job.trained_tokens * (1 - 1 / len(times)) / span, 1)
