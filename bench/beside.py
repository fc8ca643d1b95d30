"""What goes on beside: two hundred adapters asked at random, and training while chats are answered.

    python bench/beside.py [--threads 1] [--training-threads N] [--many 200] [--window 20] [--json FILE]

Adapters: requests for 8, then for `--many` adapters, uniformly and skewed (Zipf), 16 in flight, over the socket; the
ratio to 8 adapters tells whether there is a cliff. Training: chats alone, training alone, both with an engine that never
rests, and both at the default `MILEPOST_CHAT_PACE`; p95 of the time per token and steps per second, with their ratios
to each alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from serve import write_adapter

from milepost.config import Settings
from milepost.resources.methods import MethodType
from milepost.resources.models import Base
from milepost.resources.runs import (
    BUSY,
    CHILD_ENVIRONMENT,
    TRAINERS,
    DataFile,
    RunHyperparameters,
    RunSpec,
    Source,
    Task,
)
from milepost.serving.client import Engines, launcher
from milepost.serving.protocol import Chunk, Generation, Limits

IN_FLIGHT, TOKENS = 16, 8

#: Beside training: the most that a chat's time per token may grow, and the least that training keeps of its speed.
MOST_TIMES, LEAST_SHARE = 2.0, 0.6
#: The least that many adapters may keep of the tokens per second of eight, or it is a cliff.
LEAST_OF_EIGHT = 0.5
BUDGET_MS, PACE = Settings.model_fields["token_budget_ms"].default, Settings.model_fields["chat_pace"].default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--base", type=Path, default=cache / "milepost/bases/smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--training-threads", type=int, default=os.cpu_count())
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--window", type=float, default=20, help="seconds of each measurement beside training")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    card = Base.model_validate_json((given.base / "base.json").read_bytes())
    base = Source(name=card.name, path=str(given.base), hash=card.hash)
    report: dict[str, object] = {"base": base.name, "threads": given.threads, "load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory() as folder:
        report["adapters"] = asyncio.run(adapters(base, Path(folder), given.threads, given.many))
        report["training"] = asyncio.run(
            training(base, Path(folder), given.threads, given.training_threads, given.window)
        )
    report["load_after"] = os.getloadavg()
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


# --- many adapters ----------------------------------------------------------------------------------------------------


async def adapters(base: Source, folder: Path, threads: int, many: int) -> dict[str, dict[str, object]]:
    """Rank 4, so that hundreds of files stay small."""
    sources = [write_adapter(base, folder / f"many-{seed}", seed, rank=4) for seed in range(many)]
    draw = random.Random(1)
    skewed = [1 / (place + 1) for place in range(many)]
    orders = {
        "8 adapters": draw.choices(sources[:8], k=many),
        f"{many} adapters, uniform": draw.choices(sources, k=many),
        f"{many} adapters, skewed": draw.choices(sources, weights=skewed, k=many),
    }
    found: dict[str, dict[str, object]] = {}
    first = 0.0
    async with engines(threads, folder) as engine:
        await engine.warm(base)
        for name, order in orders.items():
            speed, waits = await ask_all(engine, base, order)
            first = first or speed
            p50, p95 = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
            found[name] = {"tokens_per_s": round(speed, 1), "ratio": round(speed / first, 2)}
            found[name] |= {"first_token_ms": {"p50": round(p50), "p95": round(p95)}}
            found[name] |= {"floor": LEAST_OF_EIGHT, "is_met": speed / first >= LEAST_OF_EIGHT}
            print(
                f"{name:32} {speed:8.1f} tokens/s  {speed / first:5.2f} times, {word(found[name])} (floor "
                f"{LEAST_OF_EIGHT})  first token {p50:.0f} / {p95:.0f} ms"
            )
    return found


async def ask_all(engine: Engines, base: Source, order: Sequence[Source]) -> tuple[float, list[float]]:
    """Tokens per second, and each request's milliseconds to its first token, with so many in flight."""
    places, waits, tokens = asyncio.Semaphore(IN_FLIGHT), [], 0

    async def ask(source: Source) -> None:
        nonlocal tokens
        async with places:
            began, first = time.perf_counter(), None
            request = Generation(base=base, adapter=source, prompt="one two three", temperature=0, max_tokens=TOKENS)
            async for answer in engine.generate(request):
                first = first or time.perf_counter() - began
                if not isinstance(answer, Chunk):
                    tokens += answer.completion_tokens
            waits.append(1000 * (first or 0))

    began = time.perf_counter()
    await asyncio.gather(*(ask(source) for source in order))
    return tokens / (time.perf_counter() - began), waits


# --- training beside --------------------------------------------------------------------------------------------------


async def training(
    base: Source, folder: Path, threads: int, training_threads: int, window_s: float
) -> dict[str, dict[str, Any]]:
    chats_alone = await chat_p95(base, folder, threads, window_s, 1.0)
    with child(base, folder, "alone", training_threads) as run:
        steps_alone = await steps_per_s(run, window_s)
    found: dict[str, dict[str, Any]] = {}
    for name, pace in (("as fast as can be", 1.0), (f"pace {PACE}", PACE)):
        with child(base, folder, name.replace(" ", "-"), training_threads) as run:
            chatting = asyncio.create_task(chat_p95(base, folder, threads, 2 * window_s, pace))
            await asyncio.sleep(window_s / 2)  # the engine is up by then
            steps = await steps_per_s(run, window_s)
            chats = await chatting
        found[name] = {
            "token_p95_ms": round(chats, 1),
            "token_p95_ms_alone": round(chats_alone, 1),
            "times": round(chats / chats_alone, 2),
            "steps_per_s": round(steps, 3),
            "steps_per_s_alone": round(steps_alone, 3),
            "share": round(steps / steps_alone, 2) if steps_alone else 0.0,
        }
        found[name] |= {
            "floors": {"times": MOST_TIMES, "share": LEAST_SHARE},
            "is_met": found[name]["times"] <= MOST_TIMES and found[name]["share"] >= LEAST_SHARE,
        }
        print(
            f"training beside, {name:16} token p95 {chats:.0f} ms (alone {chats_alone:.0f}: {found[name]['times']} times), "
            f"training at {found[name]['share']:.0%} of its speed: {word(found[name])} (at most {MOST_TIMES} times, "
            f"at least {LEAST_SHARE:.0%})"
        )
    return found


def word(found: Mapping[str, object]) -> str:
    return "ok" if found["is_met"] else "BELOW"


async def chat_p95(base: Source, folder: Path, threads: int, window_s: float, pace: float) -> float:
    """The 95th percentile of milliseconds between tokens of one chat after the other."""
    gaps: list[float] = []
    trainers = str(folder / TRAINERS)
    limits = Limits(busy_file=str(folder / BUSY), token_budget_ms=BUDGET_MS, trainers=trainers, pace=pace)
    async with engines(threads, folder, limits) as engine:
        await engine.warm(base)
        end = time.perf_counter() + window_s
        while time.perf_counter() < end:
            last = None
            asked = Generation(base=base, prompt="Once upon a time", temperature=1, max_tokens=64)
            async for _ in engine.generate(asked):
                now = time.perf_counter()
                gaps += [1000 * (now - last)] if last else []
                last = now
    return statistics.quantiles(gaps, n=20)[-1]


async def steps_per_s(run: Path, window_s: float) -> float:
    """From the end of a step to the end of another, a window later: a step takes two seconds and more."""
    await asyncio.to_thread(wait_for_a_step, run)
    first, began = steps(run), time.perf_counter()
    await asyncio.sleep(window_s)
    await asyncio.to_thread(wait_for_a_step, run)
    return (steps(run) - first) / (time.perf_counter() - began)


def wait_for_a_step(run: Path) -> None:
    """One that ends from now on."""
    before = steps(run)
    while steps(run) == before:
        time.sleep(0.02)


def steps(run: Path) -> int:
    file = run / "events.jsonl"
    return file.read_bytes().count(b'"metrics"') if file.exists() else 0


@contextmanager
def child(base: Source, folder: Path, name: str, threads: int) -> Iterator[Path]:
    """A training process that goes on until the block ends."""
    run = folder / name / "train"
    run.mkdir(parents=True)
    (folder / TRAINERS).mkdir(exist_ok=True)
    told = [{"role": "user", "content": "How is it?"}, {"role": "assistant", "content": "one two three " * 20}]
    content = b"\n".join(itertools.repeat(json.dumps({"messages": told}).encode(), 400))
    file = folder / f"{name}.jsonl"
    file.write_bytes(content)
    data = DataFile(file_id="file-1", path=str(file), hash=hashlib.sha256(content).hexdigest(), param="training_file")
    spec = RunSpec(
        task=Task.TRAIN,
        job_id="ftjob-1",
        method=MethodType.SUPERVISED,
        hyperparameters=RunHyperparameters(n_epochs=50, batch_size=4, learning_rate=1e-4),
        seed=1,
        threads=threads,
        base=base,
        training=data,
    )
    (run / "job.json").write_text(spec.model_dump_json())
    with (folder / f"{name}.log").open("wb") as log:
        environment = {**os.environ, **CHILD_ENVIRONMENT}
        command = [sys.executable, "-m", "milepost.training", str(run)]
        with subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True) as process:
            try:
                yield run
            finally:
                process.kill()


@asynccontextmanager
async def engines(threads: int, folder: Path, limits: Limits | None = None) -> AsyncIterator[Engines]:
    launch = launcher(
        threads=threads, log_file=folder / "engine.log", environment=os.environ, limits=limits or Limits()
    )
    async with Engines(launch) as engine:
        yield engine


if __name__ == "__main__":
    main()
