"""A job's events as they come, through the API alone: what `milepost demo` and `milepost jobs watch` both look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJobEvent

FINAL = frozenset({"succeeded", "failed", "cancelled"})
LOOK_S = 0.5  # between two looks at a job: training has better uses for the processor
PAGE = 100


class Metrics(BaseModel):
    """The data of a metrics event, as far as it is shown. OpenAI's has no `full_valid_loss` where ours has one; a step
    that was skipped has no `train_loss`.
    """

    step: int
    total_steps: int
    train_loss: float | None = None
    valid_loss: float | None = None
    full_valid_loss: float | None = None


async def fresh_events(client: AsyncOpenAI, job_id: str, seen: set[str]) -> list[FineTuningJobEvent]:
    """Events not seen yet, oldest first; the API lists the newest first. One request, unless many are new."""
    fresh: list[FineTuningJobEvent] = []
    async for event in client.fine_tuning.jobs.list_events(job_id, limit=PAGE):
        if event.id in seen:
            break
        fresh.append(event)
    seen.update(event.id for event in fresh)
    return fresh[::-1]
