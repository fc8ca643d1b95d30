"""An engine that answers by rule, and what a job leaves behind without a training process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from milepost.errors import Error
from milepost.resources.checkpoints import Metrics
from milepost.resources.runs import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, METRICS, CheckpointMetrics, Source
from milepost.serving.protocol import Chunk, Counts, Generation, Likely, TokenLogprob, Usage
from milepost.store.blobs import sha256_of


class ScriptedEngine:
    """Says `answer`, piece by piece, for every choice; raises `error` after `raise_after` pieces; waits when told to.

    What it was asked is in `asked`; `began` and `closed` are set once a generation has begun, and once it has ended, by
    itself or because it was left.
    """

    def __init__(self) -> None:
        self.answer: Sequence[str] = ("Hel", "lo", ".")
        self.error: Exception | None = None
        self.raise_after = 0
        self.cached_tokens = 0
        self.waits = False
        self.up = True
        self.told: dict[str, Counts] = {}
        self.asked: list[Generation] = []
        self.began = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, request: Generation) -> AsyncGenerator[Chunk | Usage]:
        self.asked.append(request)
        self.began.set()
        try:
            for piece, text in enumerate(self.answer):
                if self.error and piece == self.raise_after:
                    raise self.error
                logprobs = () if request.logprobs is None else (token_logprob(text, request.logprobs),)
                for index in range(request.n):
                    yield Chunk(index=index, text=text, logprobs=logprobs)
                if self.waits:
                    await asyncio.Event().wait()
            for index in range(request.n):
                yield Chunk(index=index, text="", finish_reason="stop")
            spoken = len(self.answer) * request.n
            yield Usage(prompt_tokens=7, completion_tokens=spoken, cached_tokens=self.cached_tokens)
        finally:
            self.closed.set()

    def is_up(self, base: Source) -> bool:
        return self.up

    async def counts(self) -> dict[str, Counts]:
        return self.told

    async def stop(self, grace_s: float) -> None:
        raise NotImplementedError

    async def warm(self, base: Source, adapter: Source | None = None) -> None:
        raise NotImplementedError


def token_logprob(text: str, count: int) -> TokenLogprob:
    """Of a token that is likeliest, as likely as its text is long."""
    named = {"token": text, "bytes": tuple(text.encode())}
    others = ({"token": "?", "bytes": (63,), "logprob": -20_000.0} for _ in range(count - 1))
    top = [Likely(**named, logprob=-0.5 * len(text))] * bool(count) + [Likely(**other) for other in others]
    return TokenLogprob(**named, logprob=-0.5 * len(text), top=tuple(top))


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self, time: float) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


class Leaver:
    """A client of its own making: sends one request, and goes when told to."""

    def __init__(self, app, path: str, body: dict, key: str) -> None:
        self._requests = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self.left = asyncio.Event()
        self.sent: asyncio.Queue = asyncio.Queue()
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        path = f"/v1{path}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
        }
        scope |= {"headers": headers, "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http"}
        scope |= {"server": ("test", 80), "client": ("test", 1), "root_path": ""}
        self.done = asyncio.create_task(app(scope, self.receive, self.sent.put))

    async def receive(self):
        if self._requests:
            return self._requests.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}


class BugError(Exception):
    """Something nobody meant to raise."""


def checkpoint_folder(root: Path, step: int, *, final: bool = False, config: str = "{}") -> Path:
    """A checkpoint as a run leaves it. The weights are not weights: nothing reads them here."""
    folder = root / f"step-{step}"
    folder.mkdir(parents=True)
    (folder / ADAPTER_WEIGHTS).write_bytes(b"weights of step %d" % step)
    (folder / ADAPTER_CONFIG).write_text(config)
    measured = CheckpointMetrics(
        step=step, total_steps=100, epoch=1.0, final=final, metrics=Metrics(step=step, train_loss=1.0 / step)
    )
    (folder / METRICS).write_text(measured.model_dump_json())
    sums = {name: sha256_of(folder / name) for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, METRICS)}
    (folder / MANIFEST).write_text(json.dumps({"sha256": sums}))
    return folder


__all__ = ["BugError", "Clock", "Error", "Leaver", "ScriptedEngine", "checkpoint_folder", "token_logprob"]
