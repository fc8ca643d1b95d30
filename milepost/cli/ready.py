"""From publication to the first possible token: checkpoints are loaded ahead, and how long that took is kept."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing

from milepost.config import Settings
from milepost.errors import Error
from milepost.resources.checkpoints import FineTuningJobCheckpoint
from milepost.serving.client import Engine
from milepost.serving.protocol import Generation
from milepost.store import models
from milepost.store.database import Database

log = logging.getLogger(__name__)

#: What the first token is asked for. Its time is that of loading: the prompt is as short as a prompt can be.
PROMPT = "a"


def warmer(
    database: Database,
    settings: Settings,
    engines: Engine,
    loop: asyncio.AbstractEventLoop,
    on_ready: Callable[[float], None] = lambda _: None,
) -> Callable[[FineTuningJobCheckpoint], None]:
    """What to call, from any thread, with each checkpoint as it is published. It returns at once; `on_ready` is told in
    how many seconds one could answer.
    """

    def published(checkpoint: FineTuningJobCheckpoint) -> None:
        warming = warm(database, settings, engines, checkpoint, since=time.monotonic(), on_ready=on_ready)
        try:
            asyncio.run_coroutine_threadsafe(warming, loop)
        except RuntimeError:  # the server is stopping, and its loop has ended
            warming.close()

    return published


async def warm(
    database: Database,
    settings: Settings,
    engines: Engine,
    checkpoint: FineTuningJobCheckpoint,
    *,
    since: float,
    clock: Callable[[], float] = time.monotonic,
    on_ready: Callable[[float], None] = lambda _: None,
) -> None:
    """Have an engine that is up load a checkpoint published at `since` and say one token; keep how long that took.

    One that is not up is left alone: it takes memory, and nobody may ever ask.
    """
    try:
        servable = await asyncio.to_thread(models.servable_of, database, settings, checkpoint.id)
        if not engines.is_up(servable.base):
            return
        asked = Generation(base=servable.base, adapter=servable.adapter, prompt=PROMPT, temperature=0, max_tokens=1)
        async with aclosing(engines.generate(asked)) as answers:
            await anext(answers)
        ready_ms = max(1, round(1000 * (clock() - since)))
        await asyncio.to_thread(models.note_ready, database, checkpoint.id, ready_ms)
    except Error as error:  # whoever asks for it next is told the same
        log.warning("checkpoint %s could not be loaded ahead: %s", checkpoint.id, error.message)
    except Exception:
        log.exception("checkpoint %s could not be loaded ahead", checkpoint.id)
    else:
        on_ready(ready_ms / 1000)
        log.info("checkpoint %s could answer %d ms after its publication", checkpoint.id, ready_ms)
