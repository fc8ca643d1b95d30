"""/chat/completions: ask a base model, a tuned model or any checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import TypedDict

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from milepost.api.answers import EventStream, Stamp, chain, events, stamp, to_usage
from milepost.api.bodies import StrictRoute
from milepost.api.leaving import while_connected
from milepost.api.parts import Caller, Given
from milepost.errors import Unavailable
from milepost.resources.chat import (
    LEAST_LOGPROB,
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    FinishReason,
    JsonObjectFormat,
    Logprobs,
    Message,
    TokenLogprob,
    TopLogprob,
    check_served,
    text_of,
)
from milepost.serving.protocol import Chunk, Generation, Likely, Usage
from milepost.serving.protocol import TokenLogprob as Told
from milepost.store import models
from milepost.store.models import Servable

router = APIRouter(prefix="/chat", tags=["Chat"], route_class=StrictRoute)

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

    Text in, text out. What would change the answer and is not served yet (tools, JSON schemas, images) is refused by
    name; documented fields that change nothing are accepted.
    """
    check_served(body)
    servable = await run_in_threadpool(models.resolve, given.database, given.settings, key.project_id, body.model)
    stamped = stamp("chat_completion", servable, given.now())
    answers = given.engines.generate(_generation(body, servable, key.project_id))
    if not body.stream:
        return await while_connected(request, _complete(answers, stamped, tells_logprobs=bool(body.logprobs)))
    # the first token before the first header, so that an error up to there has a status of its own
    first = await while_connected(request, anext(answers))
    return EventStream(events(request, _frames(body, chain(first, answers), stamped)), answers)


def _generation(body: ChatRequest, servable: Servable, client: str) -> Generation:
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
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_object=isinstance(body.response_format, JsonObjectFormat),
        client=client,
    )


def _plain(message: Message) -> dict[str, str]:
    """A message as chat templates take it, and as training rendered it."""
    plain = {"role": message.role, "content": text_of(message.content)}
    return plain | ({"name": message.name} if message.name else {})


async def _complete(answers: AsyncGenerator[Chunk | Usage], stamped: Stamp, *, tells_logprobs: bool) -> ChatCompletion:
    chunks: defaultdict[int, list[Chunk]] = defaultdict(list)
    async with aclosing(answers):
        async for answer in answers:
            if isinstance(answer, Usage):
                choices = tuple(_choice(index, chunks[index], tells_logprobs) for index in sorted(chunks))
                return ChatCompletion(**stamped, choices=choices, usage=to_usage(answer))
            chunks[answer.index].append(answer)
    raise Unavailable("The engine stopped before the end of its answer. Try again")


def _choice(index: int, chunks: Sequence[Chunk], tells_logprobs: bool) -> Choice:
    reason: FinishReason | None = chunks[-1].finish_reason
    if reason is None:
        raise Unavailable("The engine stopped before the end of its answer. Try again")
    return Choice(
        index=index,
        message=AssistantMessage(content="".join(chunk.text for chunk in chunks)),
        logprobs=_logprobs([token for chunk in chunks for token in chunk.logprobs]) if tells_logprobs else None,
        finish_reason=reason,
    )


async def _frames(
    body: ChatRequest, answers: AsyncIterator[Chunk | Usage], stamped: Stamp
) -> AsyncIterator[ChatCompletionChunk]:
    """The frames of a stream in the contract's order."""
    for index in range(body.n or 1):
        yield _frame(stamped, ChunkChoice(index=index, delta={"role": "assistant", "content": "", "refusal": None}))
    async for answer in answers:
        if isinstance(answer, Chunk):
            for choice in _deltas(answer, tells_logprobs=bool(body.logprobs)):
                yield _frame(stamped, choice)
        elif body.stream_options is not None and body.stream_options.include_usage:
            yield ChatCompletionChunk(**stamped, choices=(), usage=to_usage(answer))


def _deltas(chunk: Chunk, *, tells_logprobs: bool) -> Iterator[ChunkChoice]:
    if chunk.text or chunk.logprobs:
        logprobs = _logprobs(chunk.logprobs) if tells_logprobs else None
        yield ChunkChoice(index=chunk.index, delta={"content": chunk.text}, logprobs=logprobs)
    if chunk.finish_reason:
        yield ChunkChoice(index=chunk.index, delta={}, finish_reason=chunk.finish_reason)


def _frame(stamped: Stamp, choice: ChunkChoice) -> ChatCompletionChunk:
    return ChatCompletionChunk(**stamped, choices=(choice,))


def _logprobs(tokens: Sequence[Told]) -> Logprobs:
    return Logprobs(
        content=tuple(
            TokenLogprob(**_named(token), top_logprobs=tuple(TopLogprob(**_named(likely)) for likely in token.top))
            for token in tokens
        )
    )


class _Named(TypedDict):
    """What both kinds of token say."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None


def _named(likely: Likely) -> _Named:
    logprob = LEAST_LOGPROB if likely.logprob is None else max(likely.logprob, LEAST_LOGPROB)
    return _Named(token=likely.token, logprob=logprob, bytes=likely.bytes or None)
