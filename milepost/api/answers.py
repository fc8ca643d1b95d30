"""How an engine's answer becomes HTTP's: what its frames share, and server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypedDict, TypeVar

import orjson
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from milepost.api.envelope import error_answer, explain
from milepost.resources.base import Frozen, new_id
from milepost.resources.chat import CompletionUsage, PromptTokensDetails
from milepost.serving.protocol import Usage
from milepost.store.models import Servable

Item = TypeVar("Item")


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, most of all when the client leaves, `source` is closed: the engine stops."""

    def __init__(self, frames: AsyncIterator[bytes], source: AsyncGenerator[object]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


class Stamp(TypedDict):
    """What all frames of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def stamp(kind: str, servable: Servable, now: float) -> Stamp:
    weights = servable.adapter or servable.base
    return Stamp(
        id=new_id(kind),
        created=int(now),
        model=servable.model,
        system_fingerprint=f"fp_{weights.hash[:12]}",
    )


def to_usage(usage: Usage) -> CompletionUsage:
    total = usage.prompt_tokens + usage.completion_tokens
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=total,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
    )


async def events(request: Request, frames: AsyncIterator[Frozen]) -> AsyncIterator[bytes]:
    """The frames as server-sent events. An error once the stream runs is a frame too: its status is long sent."""
    try:
        async for frame in frames:
            yield _event(frame.model_dump(mode="json"))
    except Exception as error:  # noqa: BLE001 (`explain` logs what nobody meant to raise)
        yield _event(error_answer(explain(request, error)).model_dump())
    else:
        yield b"data: [DONE]\n\n"


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def chain(first: Item, rest: AsyncIterator[Item]) -> AsyncIterator[Item]:
    yield first
    async for item in rest:
        yield item
