"""/fine_tuning/alpha/graders: try a grader on one answer, or have it looked over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, nullcontext
from functools import partial

import orjson
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from milepost.api.bodies import StrictRoute
from milepost.api.leaving import while_connected
from milepost.api.parts import Caller, Given, Parts
from milepost.errors import Invalid, NotFound, Unavailable
from milepost.graders import grading, sandbox
from milepost.graders.score_model import Judged, Message
from milepost.graders.scores import Score
from milepost.resources.graders import (
    AnyGrader,
    GraderRunMetadata,
    GraderRunRequest,
    GraderRunResponse,
    GraderValidateRequest,
    GraderValidateResponse,
    PythonGrader,
    SamplingParams,
    ScoreModelGrader,
    TokenUsage,
)
from milepost.serving.client import Engine
from milepost.serving.protocol import Chunk, Generation
from milepost.store import models
from milepost.store.keys import Key
from milepost.store.models import Servable

router = APIRouter(prefix="/fine_tuning/alpha/graders", tags=["Graders"], route_class=StrictRoute)

#: Python graders that run at the same time; the others wait. Threads of graders are asyncio's, not FastAPI's: a run may
#: take minutes, and the routes that only touch the store must not wait for one.
MAX_RUNNING = 4
#: A semaphore belongs to an event loop, so there is one for each.
_PLACES: RunVar[asyncio.Semaphore] = RunVar("places of graders that run")


@router.post("/run", summary="Run a grader")
async def run(body: GraderRunRequest, request: Request, key: Caller, given: Given) -> GraderRunResponse:
    """Score `model_sample` with a grader. What goes wrong in it is told in `metadata.errors`, with a reward of 0.

    A `score_model` grader asks a model of this server; a `python` grader runs in a sandbox.
    """
    judges = await run_in_threadpool(_judges, body.grader, key, given)
    began = time.monotonic()
    score = await while_connected(request, _grade(body, judges, given.engines, key.project_id))
    return _response(body.grader, score, time.monotonic() - began)


@router.post("/validate", summary="Validate a grader", response_model=GraderValidateResponse)
async def validate(body: GraderValidateRequest, request: Request, key: Caller, given: Given) -> Response:
    """Look a grader over without an answer: its fields, templates, formula, the judge's name, and the Python source.

    The answer is the grader as it was sent.
    """
    await run_in_threadpool(_judges, body.grader, key, given)
    grading.check(body.grader)
    for place, part in grading.parts(body.grader):
        if isinstance(part, PythonGrader):
            async with _places():
                await asyncio.to_thread(_check_source, part.source, f"{place}.source")
    sent = await request.json()
    return Response(orjson.dumps({"grader": sent["grader"]}), media_type="application/json")


def _judges(grader: AnyGrader, key: Key, given: Parts) -> dict[str, Servable]:
    """The weights of each judge's name, looked up before anything is run: a wrong name is the request's fault."""
    found = {}
    for place, part in grading.parts(grader):
        if isinstance(part, ScoreModelGrader):
            try:
                found[part.model] = models.resolve(given.database, given.settings, key.project_id, part.model)
            except NotFound as error:
                raise NotFound(error.message, param=f"{place}.model", code=error.code) from None
    return found


def _check_source(source: str, place: str) -> None:
    if problem := sandbox.check(source):
        raise Invalid(f"Invalid value for '{place}': {problem}", param=place, code="invalid_value")


def _places() -> asyncio.Semaphore:
    try:
        return _PLACES.get()
    except LookupError:
        _PLACES.set(asyncio.Semaphore(MAX_RUNNING))
        return _PLACES.get()


async def _grade(body: GraderRunRequest, judges: Mapping[str, Servable], engines: Engine, client: str) -> Score:
    """Run the grader in a thread. Left early, what it waits for is stopped, and it has ended before this does."""
    stop = threading.Event()
    asking: set[asyncio.Task[Judged]] = set()
    loop = asyncio.get_running_loop()

    async def ask(model: str, messages: Sequence[Message], sampling: SamplingParams) -> Judged:
        if stop.is_set():
            raise Unavailable("Nobody waits for this grader any more")
        answering = asyncio.ensure_future(_ask(engines, judges[model], messages, sampling, client))
        asking.add(answering)
        return await answering

    def judge(model: str, messages: Sequence[Message], sampling: SamplingParams) -> Judged:
        return asyncio.run_coroutine_threadsafe(ask(model, messages, sampling), loop).result()

    means = grading.Means(judge=judge, run_python=partial(sandbox.run, stop=stop))
    is_python = any(isinstance(part, PythonGrader) for _, part in grading.parts(body.grader))
    async with _places() if is_python else nullcontext():
        work = partial(grading.grade, body.grader, body.model_sample, body.item or {}, means)
        working = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(working)
        finally:
            stop.set()
            for answering in asking:
                answering.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _ask(
    engines: Engine, servable: Servable, messages: Sequence[Message], sampling: SamplingParams, client: str
) -> Judged:
    generation = Generation(
        base=servable.base,
        adapter=servable.adapter,
        messages=tuple(dict(message) for message in messages),
        max_tokens=sampling.max_completions_tokens,
        temperature=1.0 if sampling.temperature is None else sampling.temperature,
        top_p=1.0 if sampling.top_p is None else sampling.top_p,
        seed=sampling.seed,
        client=client,
    )
    text = ""
    async with aclosing(engines.generate(generation)) as answers:
        async for answer in answers:
            if isinstance(answer, Chunk):
                text += answer.text
                continue
            total = answer.prompt_tokens + answer.completion_tokens
            usage = TokenUsage(
                prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens, total_tokens=total
            )
            return Judged(text, servable.model, usage)
    raise Unavailable("The engine stopped before the end of its answer. Try again")


def _response(grader: AnyGrader, score: Score, seconds: float) -> GraderRunResponse:
    usages = score.judges.values()
    return GraderRunResponse(
        reward=score.reward,
        metadata=GraderRunMetadata(
            name=grader.name,
            type=grader.type,
            errors=score.errors,
            execution_time=round(seconds, 6),
            scores={},
            token_usage=sum(usage.total_tokens for usage in usages) if usages else None,
            sampled_model_name=next(iter(score.judges)) if len(score.judges) == 1 else None,
            output=score.output,
        ),
        sub_rewards=dict(score.sub_rewards),
        model_grader_token_usage_per_model=dict(score.judges),
    )
