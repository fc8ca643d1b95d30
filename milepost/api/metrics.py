"""/metrics: what this server does, in numbers, as Prometheus reads them.

METRICS is all there is; the reference page is written from it. Labels are of small, closed sets: routes as templates,
never paths, no ids, no names that users give. What the store and the engines know is asked for at each reading;
the rest is counted as it happens, from the start of the process on.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from milepost import __version__
from milepost.api.auth import secret_of
from milepost.api.parts import Given, Parts
from milepost.jobs import counting
from milepost.serving.client import Engine
from milepost.serving.protocol import Chunk, Counts, Generation, Usage
from milepost.store import keys
from milepost.store.database import Database
from milepost.store.keys import KeyKind

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Described:
    """One metric. `buckets` are upper bounds in seconds."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SLOW = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)

METRICS = {
    each.name: each
    for each in (
        Described("milepost_info", "gauge", "1, with the version that runs.", ("version",)),
        Described(
            "milepost_http_requests_total",
            "counter",
            "Requests answered, by method, route (its template, `none` where none was reached) and status; status 0 is "
            "a client that left before it had an answer.",
            ("method", "route", "status"),
        ),
        Described(
            "milepost_http_request_seconds",
            "histogram",
            "From a request's arrival to the last byte of its answer; of a stream, all of it.",
            ("method", "route"),
            _FAST,
        ),
        Described("milepost_jobs", "gauge", "Jobs in each status, of all projects.", ("status",)),
        Described(
            "milepost_job_queue_seconds",
            "histogram",
            "How long a job was `queued` before it ran; each time, for one that was queued again. Whichever process "
            "took it, since this one started.",
            (),
            _SLOW,
        ),
        Described(
            "milepost_training_tokens_per_second",
            "gauge",
            "Tokens that all running jobs train a second, as their last heartbeats say.",
        ),
        Described(
            "milepost_checkpoint_ready_seconds",
            "histogram",
            "From a checkpoint's publication to the first token it could say, of those loaded ahead: only where an "
            "engine was up.",
            (),
            _FAST,
        ),
        Described(
            "milepost_generations_total",
            "counter",
            "Generations, by how they ended: `done`, `left` by the client, or the name of an error.",
            ("outcome",),
        ),
        Described(
            "milepost_first_token_seconds",
            "histogram",
            "From a generation's request to its first token: the wait in line, an engine's start and an adapter's "
            "loading are in it.",
            (),
            _FAST,
        ),
        Described(
            "milepost_tokens_total",
            "counter",
            "Tokens of generations that were done, by kind: `prompt`, of those `cached`, and `completion`. Its rate is "
            "tokens a second.",
            ("kind",),
        ),
        Described(
            "milepost_engine_requests",
            "gauge",
            "Requests in an engine, by state: `running` sequences and `waiting` requests.",
            ("base", "state"),
        ),
        Described(
            "milepost_adapter_requests_total",
            "counter",
            "How a request found its adapter: `slot` (ready), `memory` (copied into a slot) or `disk` (read and "
            "verified). From the engine's start on.",
            ("base", "found"),
        ),
        Described(
            "milepost_adapter_evictions_total",
            "counter",
            "Adapters that gave way to others: out of a `slot`, or out of `memory`.",
            ("base", "place"),
        ),
        Described(
            "milepost_processes",
            "gauge",
            "Processes this server started: `training` (its worker's runs) and `engine`.",
            ("kind",),
        ),
    )
}

#: What a request's method may be as a label: a client can send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Watched(Protocol):
    """The worker, as the HTTP door sees it. `looked_at` is monotonic: when it last looked at its runs."""

    @property
    def looked_at(self) -> float: ...
    @property
    def runs(self) -> int: ...


class Metrics:
    """What is counted as it happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("milepost_http_requests_total")
        self._request_s = self._histogram("milepost_http_request_seconds")
        self._queue_s = self._histogram("milepost_job_queue_seconds")
        self._ready_s = self._histogram("milepost_checkpoint_ready_seconds")
        self._generations = self._counter("milepost_generations_total")
        self._first_token_s = self._histogram("milepost_first_token_seconds")
        self._tokens = self._counter("milepost_tokens_total")
        self._waits: counting.Waits | None = None

    def begin(self, database: Database) -> None:
        """Waits in the queue count from here on."""
        self._waits = counting.Waits.from_now_on(database)

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._request_s.labels(known, route).observe(seconds)

    def ready(self, seconds: float) -> None:
        """A checkpoint that was loaded ahead could answer."""
        self._ready_s.observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first_token_s.observe(seconds)

    def generated(self, outcome: str) -> None:
        self._generations.labels(outcome).inc()

    def used(self, usage: Usage) -> None:
        for kind in ("prompt", "cached", "completion"):
            self._tokens.labels(kind).inc(getattr(usage, f"{kind}_tokens"))

    def waited(self, database: Database) -> None:
        """Take in the waits that have ended since."""
        for seconds in self._waits.ended(database) if self._waits else ():
            self._queue_s.observe(seconds)

    def _counter(self, name: str) -> Counter:
        told = METRICS[name]
        return Counter(name, told.text, told.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        told = METRICS[name]
        return Histogram(name, told.text, told.labels, buckets=told.buckets, registry=self.registry)


class Counting:
    """The outermost layer: every request is counted, whatever became of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            self._metrics.requested(scope["method"], route_of(scope), status, time.monotonic() - began)


def route_of(scope: Scope) -> str:
    """The template of the route that a request reached, as the OpenAPI document writes it."""
    included = scope.get("fastapi", {}).get("effective_route_context")  # with the prefix; the route itself has none
    path = getattr(included, "path", None) or getattr(scope.get("route"), "path", None)
    return "none" if path is None else str(path).replace(":path}", "}")


class Measured:
    """An engine whose generations are counted."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self.warm, self.is_up, self.stop, self.counts = engine.warm, engine.is_up, engine.stop, engine.counts

    async def generate(self, request: Generation) -> AsyncGenerator[Chunk | Usage]:
        began: float | None = time.monotonic()
        outcome = "left"
        try:
            async with aclosing(self._engine.generate(request)) as answers:
                async for answer in answers:
                    if began is not None:
                        self._metrics.first_token(time.monotonic() - began)
                        began = None
                    if isinstance(answer, Usage):
                        self._metrics.used(answer)
                        outcome = "done"
                    yield answer
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            self._metrics.generated(outcome)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, given: Given) -> Response:
    """For Prometheus: with the metrics key or an admin key, unless the server is told that anybody may read them."""
    await asyncio.to_thread(_admit, given, secret_of(request.headers.get("authorization")))
    counts = await given.engines.counts()
    body = await asyncio.to_thread(_written, given, counts)
    return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _admit(given: Parts, secret: str | None) -> None:
    if given.settings.metrics_open:
        return
    wanted = given.settings.metrics_key
    if wanted and secret and hmac.compare_digest(wanted.get_secret_value().encode(), secret.encode()):
        return
    keys.authenticate(given.database, secret, {KeyKind.ADMIN}, now=given.now)


def _written(given: Parts, counts: Mapping[str, Counts]) -> bytes:
    given.metrics.waited(given.database)
    asked = CollectorRegistry(auto_describe=False)
    asked.register(_Asked(tuple(_asked(given, counts))))
    return generate_latest(given.metrics.registry) + generate_latest(asked)


class _Asked:
    """Families as prometheus_client wants to be given them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _asked(given: Parts, counts: Mapping[str, Counts]) -> Iterator[Metric]:
    yield _family("milepost_info", {(__version__,): 1})
    yield _family("milepost_jobs", {(str(s),): n for s, n in counting.by_status(given.database).items()})
    yield _family("milepost_training_tokens_per_second", {(): counting.training_tokens_per_s(given.database)})
    running = {(base, "running"): each.running for base, each in counts.items()}
    waiting = {(base, "waiting"): each.waiting for base, each in counts.items()}
    yield _family("milepost_engine_requests", running | waiting)
    yield _family(
        "milepost_adapter_requests_total",
        {(base, found): count for base, each in counts.items() for found, count in each.adapters_found.items()},
    )
    yield _family(
        "milepost_adapter_evictions_total",
        {(base, place): count for base, each in counts.items() for place, count in each.adapters_evicted.items()},
    )
    training = {("training",): given.worker.runs} if given.worker else {}
    yield _family("milepost_processes", training | {("engine",): len(counts)})


def _family(name: str, values: Mapping[Any, float]) -> Metric:
    """`values` are by the values of the labels, a tuple."""
    told = METRICS[name]
    kind = CounterMetricFamily if told.kind == "counter" else GaugeMetricFamily
    family = kind(name.removesuffix("_total"), told.text, labels=told.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
