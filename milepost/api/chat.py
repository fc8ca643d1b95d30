"""/chat/completions: ask a base model, a tuned model or any checkpoint."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, TypedDict, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from milepost.api.bodies import StrictRoute
from milepost.api.envelope import error_answer, explain
from milepost.api.parts import Caller, Given
from milepost.errors import Unavailable
from milepost.resources.base import new_id
from milepost.resources.chat import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    CompletionUsage,
    FinishReason,
    Message,
    check_served,
    text_of,
)
from milepost.serving.protocol import Chunk, Generation, Usage
from milepost.store import models
from milepost.store.models import Servable

router = APIRouter(prefix="/chat", tags=["Chat"], route_class=StrictRoute)
Item = TypeVar("Item")

STREAM = {
    "description": "The answer; with `stream`, `chat.completion.chunk` objects as server-sent events, then `[DONE]`.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'data: {"id":"chatcmpl-…","object":"chat.completion.chunk","choices":[…],…}\n\ndata: [DONE]\n\n',
        }
    },
}


@router.post(
    "/completions",
    summary="Create a chat completion",
    response_model=ChatCompletion,
    responses={200: STREAM},
)
async def create(body: ChatRequest, request: Request, key: Caller, given: Given) -> ChatCompletion | Response:
    """Answer a conversation with exactly the weights that `model` names; `system_fingerprint` begins their hash.

    Text in, text out. What would change the answer and is not served yet (tools, structured output, log
    probabilities, penalties, images) is refused by name; documented fields that change nothing are accepted.
    """
    check_served(body)
    servable = await run_in_threadpool(models.resolve, given.database, given.settings, key.project_id, body.model)
    stamp = _stamp(servable, given.now())
    answers = given.engines.generate(_generation(body, servable))
    if not body.stream:
        return await _while_connected(request, _complete(answers, stamp))
    # the first token before the first header, so that an error up to there has a status of its own
    first = await _while_connected(request, anext(answers))
    include_usage = body.stream_options is not None and body.stream_options.include_usage is True
    frames = _frames(request, _chain(first, answers), stamp, choices=body.n or 1, include_usage=include_usage)
    return EventStream(frames, answers)


class EventStream(StreamingResponse):
    """Server-sent events. However it ends, most of all when the client leaves, `source` is closed: the engine stops."""

    def __init__(self, frames: AsyncIterator[bytes], source: AsyncGenerator[object]) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


class _Stamp(TypedDict):
    """What all frames of one answer share."""

    id: str
    created: int
    model: str
    system_fingerprint: str


def _stamp(servable: Servable, now: float) -> _Stamp:
    weights = servable.adapter or servable.base
    return _Stamp(
        id=new_id("chat_completion"),
        created=int(now),
        model=servable.model,
        system_fingerprint=f"fp_{weights.hash[:12]}",
    )


def _generation(body: ChatRequest, servable: Servable) -> Generation:
    return Generation(
        base=servable.base,
        adapter=servable.adapter,
        messages=tuple(_plain(message) for message in body.messages),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        n=body.n or 1,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop or (),
        seed=body.seed,
    )


def _plain(message: Message) -> dict[str, str]:
    """A message as chat templates take it, and as training rendered it."""
    plain = {"role": message.role, "content": text_of(message.content)}
    return plain | ({"name": message.name} if message.name else {})


async def _complete(answers: AsyncGenerator[Chunk | Usage], stamp: _Stamp) -> ChatCompletion:
    texts: defaultdict[int, str] = defaultdict(str)
    reasons: dict[int, FinishReason] = {}
    async with aclosing(answers):
        async for answer in answers:
            if isinstance(answer, Usage):
                choices = tuple(
                    Choice(index=index, message=AssistantMessage(content=texts[index]), finish_reason=reason)
                    for index, reason in sorted(reasons.items())
                )
                return ChatCompletion(**stamp, choices=choices, usage=_usage(answer))
            texts[answer.index] += answer.text
            if answer.finish_reason is not None:
                reasons[answer.index] = answer.finish_reason
    raise Unavailable("The engine stopped before the end of its answer. Try again")


async def _frames(
    request: Request,
    answers: AsyncIterator[Chunk | Usage],
    stamp: _Stamp,
    *,
    choices: int,
    include_usage: bool,
) -> AsyncIterator[bytes]:
    """The frames of a stream in the contract's order. An error once it runs is a frame too: its status is long sent."""
    try:
        for index in range(choices):
            yield _frame(stamp, ChunkChoice(index=index, delta={"role": "assistant", "content": "", "refusal": None}))
        async for answer in answers:
            if isinstance(answer, Chunk):
                for choice in _deltas(answer):
                    yield _frame(stamp, choice)
            elif include_usage:
                yield _frame(stamp, usage=_usage(answer))
    except Exception as error:  # noqa: BLE001 (`explain` logs what nobody meant to raise)
        yield _event(error_answer(explain(request, error)).model_dump())
    else:
        yield b"data: [DONE]\n\n"


def _deltas(chunk: Chunk) -> Iterator[ChunkChoice]:
    if chunk.text:
        yield ChunkChoice(index=chunk.index, delta={"content": chunk.text})
    if chunk.finish_reason:
        yield ChunkChoice(index=chunk.index, delta={}, finish_reason=chunk.finish_reason)


def _frame(stamp: _Stamp, *choices: ChunkChoice, usage: CompletionUsage | None = None) -> bytes:
    return _event(ChatCompletionChunk(**stamp, choices=choices, usage=usage).model_dump(mode="json"))


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _usage(usage: Usage) -> CompletionUsage:
    total = usage.prompt_tokens + usage.completion_tokens
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens, total_tokens=total
    )


async def _chain(first: Item, rest: AsyncIterator[Item]) -> AsyncIterator[Item]:
    yield first
    async for item in rest:
        yield item


async def _while_connected(request: Request, work: Awaitable[Item]) -> Item:
    """Do the work, but not for nobody: when the client leaves, it is cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_leave(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leave(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
