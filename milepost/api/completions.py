"""/completions: continue a text, or tokens, with a base model, a tuned model or any checkpoint."""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from milepost.api.answers import EventStream, Stamp, chain, events, stamp, to_usage
from milepost.api.bodies import StrictRoute
from milepost.api.leaving import while_connected
from milepost.api.parts import Caller, Given
from milepost.errors import Unavailable
from milepost.resources.chat import LEAST_LOGPROB
from milepost.resources.completions import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    check_completion,
)
from milepost.serving.protocol import Chunk, Generation, TokenLogprob, Usage
from milepost.store import models
from milepost.store.models import Servable

router = APIRouter(tags=["Completions"], route_class=StrictRoute)

STREAM = {
    "description": "The answer; with `stream`, `text_completion` objects as server-sent events, then `[DONE]`.",
    "content": {
        "text/event-stream": {
            "schema": {"type": "string"},
            "example": 'data: {"id":"cmpl-…","object":"text_completion","choices":[…],…}\n\ndata: [DONE]\n\n',
        }
    },
}
#: OpenAI's default.
MAX_TOKENS = 16


@router.post("/completions", summary="Create a completion", response_model=Completion, responses={200: STREAM})
async def create(body: CompletionRequest, request: Request, key: Caller, given: Given) -> Completion | Response:
    """Continue each prompt with exactly the weights that `model` names, without a chat template.

    With `echo`, `logprobs` and `max_tokens=0` it tells what the model gives each token of a text: how likely an answer
    is that somebody else wrote.
    """
    check_completion(body)
    servable = await run_in_threadpool(models.resolve, given.database, given.settings, key.project_id, body.model)
    stamped = stamp("completion", servable, given.now())
    asked = [_generation(body, prompt, servable, key.project_id) for prompt in body.prompts]
    # let in or refused as a whole, by its first prompt
    asked[1:] = [each.model_copy(update={"is_admitted": True}) for each in asked[1:]]
    answers = _merged([given.engines.generate(each) for each in asked])
    if not body.stream:
        return await while_connected(request, _complete(body, answers, stamped))
    first = await while_connected(request, anext(answers))
    return EventStream(events(request, _frames(body, chain(first, answers), stamped)), answers)


def _generation(body: CompletionRequest, prompt: str | tuple[int, ...], servable: Servable, client: str) -> Generation:
    is_chosen = body.drawn > (body.n or 1)  # by logprobs, told or not
    return Generation(
        base=servable.base,
        adapter=servable.adapter,
        prompt=prompt,
        max_tokens=MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        n=body.drawn,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop or (),
        seed=body.seed,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        logprobs=0 if body.logprobs is None and is_chosen else body.logprobs,
        echo=bool(body.echo),
        client=client,
    )


async def _merged(
    sources: Sequence[AsyncGenerator[Chunk | Usage]],
) -> AsyncGenerator[tuple[int, Chunk | Usage]]:
    """What all sources yield, as it comes, each with the number of its source. Closing it closes them."""
    arrived: asyncio.Queue[tuple[int, Chunk | Usage | BaseException | None]] = asyncio.Queue()

    async def pump(number: int, source: AsyncGenerator[Chunk | Usage]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    arrived.put_nowait((number, item))
        except Exception as error:  # noqa: BLE001 (raised again by who waits for it)
            arrived.put_nowait((number, error))
        else:
            arrived.put_nowait((number, None))

    pumps = [asyncio.create_task(pump(number, source)) for number, source in enumerate(sources)]
    try:
        left = len(pumps)
        while left:
            number, item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield number, item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _complete(
    body: CompletionRequest, answers: AsyncGenerator[tuple[int, Chunk | Usage]], stamped: Stamp
) -> Completion:
    chunks: defaultdict[tuple[int, int], list[Chunk]] = defaultdict(list)
    used: list[Usage] = []
    async with aclosing(answers):
        async for number, answer in answers:
            if isinstance(answer, Usage):
                used.append(answer)
            else:
                chunks[number, answer.index].append(answer)
    kept = [chunks[number, index] for number in range(len(body.prompts)) for index in _best(body, chunks, number)]
    choices = tuple(_choice(body, index, found) for index, found in enumerate(kept))
    return Completion(**stamped, choices=choices, usage=to_usage(_sum(used)))


def _best(body: CompletionRequest, chunks: dict[tuple[int, int], list[Chunk]], number: int) -> Sequence[int]:
    """Which answers to a prompt are given: those of the highest mean logprob, where more were made than asked for.

    The mean is of what was made, without an echo; an empty answer, which has none, comes last.
    """
    wanted = body.n or 1
    if body.drawn == wanted:
        return range(wanted)

    def mean(index: int) -> float:
        made = chunks[number, index][1 if body.echo else 0 :]
        told = [token.logprob or 0.0 for chunk in made for token in chunk.logprobs]
        return sum(told) / len(told) if told else -math.inf

    return sorted(range(body.drawn), key=mean, reverse=True)[:wanted]


def _choice(body: CompletionRequest, index: int, chunks: Sequence[Chunk]) -> CompletionChoice:
    if not chunks or chunks[-1].finish_reason is None:
        raise Unavailable("The engine stopped before the end of its answer. Try again")
    tokens = [token for chunk in chunks for token in chunk.logprobs]
    return CompletionChoice(
        text="".join(chunk.text for chunk in chunks),
        index=index,
        logprobs=None if body.logprobs is None else _logprobs(tokens, _begin(body, index), body.logprobs),
        finish_reason=chunks[-1].finish_reason,
    )


async def _frames(
    body: CompletionRequest, answers: AsyncIterator[tuple[int, Chunk | Usage]], stamped: Stamp
) -> AsyncIterator[Completion]:
    wanted = body.n or 1
    told: defaultdict[int, bytes] = defaultdict(bytes)  # of each choice's tokens
    used: list[Usage] = []
    async for number, answer in answers:
        if isinstance(answer, Usage):
            used.append(answer)
            continue
        index = number * wanted + answer.index
        logprobs = None
        if body.logprobs is not None:
            logprobs = _logprobs(answer.logprobs, _begin(body, index), body.logprobs, before=told[index])
            told[index] += b"".join(bytes(token.bytes) for token in answer.logprobs)
        choice = CompletionChoice(text=answer.text, index=index, logprobs=logprobs, finish_reason=answer.finish_reason)
        yield Completion(**stamped, choices=(choice,))
    if body.stream_options is not None and body.stream_options.include_usage:
        yield Completion(**stamped, choices=(), usage=to_usage(_sum(used)))


def _begin(body: CompletionRequest, index: int) -> int:
    """Where a choice's first token stands, in characters. Of a prompt given as tokens the text is not known."""
    prompt = body.prompts[index // (body.n or 1)]
    return 0 if body.echo or not isinstance(prompt, str) else len(prompt)


def _logprobs(tokens: Sequence[TokenLogprob], begin: int, count: int, before: bytes = b"") -> CompletionLogprobs:
    """`before` is what the choice's tokens stood for up to here: a token may be a part of a character only."""
    offsets = []
    for token in tokens:
        offsets.append(begin + len(before.decode(errors="ignore")))
        before += bytes(token.bytes)
    return CompletionLogprobs(
        tokens=tuple(token.token for token in tokens),
        token_logprobs=tuple(None if token.logprob is None else _shown(token.logprob) for token in tokens),
        top_logprobs=tuple(_top(token) for token in tokens) if count else None,
        text_offset=tuple(offsets),
    )


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The likeliest and the one that was taken, as OpenAI has it: so up to one more than was asked for."""
    if token.logprob is None:
        return None
    return {likely.token: _shown(likely.logprob or 0.0) for likely in (*token.top, token)}


def _shown(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


def _sum(used: Sequence[Usage]) -> Usage:
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in used),
        completion_tokens=sum(usage.completion_tokens for usage in used),
        cached_tokens=sum(usage.cached_tokens for usage in used),
    )
