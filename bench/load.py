"""How many SDK calls a second one server bears: an open loop of listings, event polling, uploads and chats.

    python bench/load.py [--seconds 300] [--rate N | --rates 20,40,80] [--probe 15] [--only alone] [--json FILE]

Calls begin by a schedule, whether or not others have been answered, and are timed from when they should have begun: a
server that stalls is seen to. Rates are tried until p99 of the listings, as the server itself measures it (the header
openai-processing-ms), passes 50 ms; at the best the server is held for `--seconds`, without a training job and with one.
Then: no 5xx, every upload that was answered listed once and with its bytes, and no other; and how the server's memory
grew. The model is tiny: what chats cost the engine is measured by bench/serve.py. All of it, the SDK's own work
included, is on this machine's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import openai

BASE = "tiny-random-llama"
KEY = "sk-proj-of-the-load-that-is-measured-0123456"
LIMIT_MS = 50.0
LISTINGS = frozenset({"jobs", "files", "checkpoints", "models"})
LINE = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}


@dataclass
class Seen:
    """What came of the calls. Times are milliseconds: `server` as it says, `client` from when a call was due."""

    server: dict[str, list[float]] = field(default_factory=dict)
    client: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    uploaded: dict[str, int] = field(default_factory=dict)
    began: int = 0

    def listings_p99(self) -> float:
        return percentile([ms for kind in LISTINGS & self.server.keys() for ms in self.server[kind]], 0.99)

    def report(self) -> dict[str, object]:
        return {
            "calls": self.began,
            "statuses": dict(self.statuses),
            "listings_p99_ms_in_server": self.listings_p99(),
            "in_server_ms": {kind: spread(told) for kind, told in sorted(self.server.items())},
            "at_client_ms": {kind: spread(told) for kind, told in sorted(self.client.items())},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, help="calls a second; without it the best of --rates")
    parser.add_argument("--rates", default="20,40,60,80,120,160")
    parser.add_argument("--probe", type=float, default=15, help="seconds for which each rate is tried")
    parser.add_argument("--only", choices=("alone", "training"), help="one of the two halves")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rates = [given.rate] if given.rate else [float(rate) for rate in given.rates.split(",")]
    report: dict[str, object] = {"cores": os.cpu_count(), "seconds": given.seconds, "load_before": os.getloadavg()}
    bad: list[str] = []
    halves = {"alone": ("alone", False), "training": ("beside a training job", True)}
    for name, is_training in [halves[given.only]] if given.only else halves.values():
        with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (process, url):
            measured, faults = asyncio.run(measure(url, process.pid, rates, given, is_training))
        report[name] = measured
        bad += [f"{name}: {fault}" for fault in faults]
    report["load_after"] = os.getloadavg()
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    if bad:
        sys.exit("\n".join(bad))


async def measure(
    url: str, pid: int, rates: list[float], given: argparse.Namespace, is_training: bool
) -> tuple[dict[str, object], list[str]]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0, timeout=60) as sdk:
        calls = await prepare(sdk, is_training)
        all_seen = Seen()
        await hold(calls, 20, 5, all_seen.uploaded)  # what is imported at the first upload is no part of its rate
        best = rates[0]
        tried: dict[str, float] = {}
        for rate in rates if len(rates) > 1 else ():
            seen = await hold(calls, rate, given.probe, all_seen.uploaded)
            tried[f"{rate:g}"] = seen.listings_p99()
            print(f"  tried {rate:5g}/s: p99 of listings {seen.listings_p99():5.0f} ms in the server", flush=True)
            if seen.listings_p99() > LIMIT_MS:
                break
            best = rate
        before_mb = rss_mb(pid)
        seen = await hold(calls, best, given.seconds, all_seen.uploaded)
        after_mb = rss_mb(pid)
        faults = await doubts(sdk, seen, all_seen.uploaded)
        state = [job.status async for job in sdk.fine_tuning.jobs.list()] if is_training else []
    print(
        f"{'beside training' if is_training else 'alone':16} {best:5g}/s for {given.seconds:g} s: p99 of listings "
        f"{seen.listings_p99():.0f} ms in the server; {dict(seen.statuses)}; memory {before_mb} → {after_mb} MB",
        flush=True,
    )
    told = {"rate": best, "tried": tried, "rss_mb": [before_mb, after_mb], "jobs": Counter(state), **seen.report()}
    return told, faults


# ------------------------------------------------------------------------------------------------ calls


async def prepare(
    sdk: openai.AsyncOpenAI, is_training: bool
) -> list[tuple[int, str, Callable[[Seen], Awaitable[float]]]]:
    """(how many of a hundred, name, call) of what is sent; there is a job with a checkpoint and some history."""
    lines = (json.dumps(LINE) + "\n").encode()
    first = await train(sdk, lines * 200, 1, "succeeded")
    watched = await train(sdk, lines * 20_000, 50, "running") if is_training else first
    drawn = random.Random(7)
    jobs = sdk.fine_tuning.jobs
    ask = [{"role": "user", "content": "Who are you?"}]

    async def upload(seen: Seen) -> float:
        content = lines * drawn.randint(1, 300)
        answer = await sdk.files.with_raw_response.create(file=("a.jsonl", content), purpose="fine-tune")
        seen.uploaded[answer.parse().id] = len(content)
        return told_ms(answer)

    async def chat(_seen: Seen) -> float:
        return told_ms(await sdk.chat.completions.with_raw_response.create(model=BASE, messages=ask, max_tokens=8))

    async def files(_seen: Seen) -> float:
        return told_ms(await sdk.files.with_raw_response.list(limit=20))

    async def many_jobs(_seen: Seen) -> float:
        return told_ms(await jobs.with_raw_response.list(limit=20))

    async def checkpoints(_seen: Seen) -> float:
        return told_ms(await jobs.checkpoints.with_raw_response.list(first))

    async def models(_seen: Seen) -> float:
        return told_ms(await sdk.models.with_raw_response.list())

    async def events(_seen: Seen) -> float:
        return told_ms(await jobs.with_raw_response.list_events(watched, limit=20))

    return [
        (20, "jobs", many_jobs),
        (15, "files", files),
        (15, "checkpoints", checkpoints),
        (5, "models", models),
        (30, "events", events),
        (10, "upload", upload),
        (5, "chat", chat),
    ]


async def train(sdk: openai.AsyncOpenAI, content: bytes, n_epochs: int, until: str) -> str:
    """The id of a new job, once it has this status."""
    file = await sdk.files.create(file=("train.jsonl", content), purpose="fine-tune")
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": n_epochs}}}
    made = await sdk.fine_tuning.jobs.create(model=BASE, training_file=file.id, method=method)
    while (job := await sdk.fine_tuning.jobs.retrieve(made.id)).status != until:
        assert job.status not in {"failed", "cancelled"}, job.error
        await asyncio.sleep(0.2)
    return made.id


def told_ms(answer: object) -> float:
    return float(answer.headers["openai-processing-ms"])  # type: ignore[attr-defined]


async def hold(calls: list, rate: float, seconds: float, uploaded: dict[str, int]) -> Seen:
    """Begin `rate` calls a second for so long, each when it is due, and wait for the last answer."""
    seen = Seen(uploaded=uploaded)
    drawn = random.Random(11)
    weights, kinds = [weight for weight, _, _ in calls], [(name, call) for _, name, call in calls]
    start = time.monotonic()
    running: set[asyncio.Task[None]] = set()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (early := due - time.monotonic()) > 0:
            await asyncio.sleep(early)
        (name, call), *_ = drawn.choices(kinds, weights)
        task = asyncio.create_task(one(seen, name, call, due))
        running.add(task)
        task.add_done_callback(running.discard)
        seen.began += 1
    while running:
        await asyncio.wait(running)
    return seen


async def one(seen: Seen, name: str, call: Callable[[Seen], Awaitable[float]], due: float) -> None:
    try:
        server_ms = await call(seen)
    except openai.APIStatusError as error:
        seen.statuses[str(error.status_code)] += 1
    except openai.APIConnectionError as error:
        seen.statuses[type(error).__name__] += 1
    else:
        seen.statuses["200"] += 1
        seen.server.setdefault(name, []).append(server_ms)
    seen.client.setdefault(name, []).append((time.monotonic() - due) * 1000)


async def doubts(sdk: openai.AsyncOpenAI, seen: Seen, uploaded: dict[str, int]) -> list[str]:
    """What is wrong: answers that are faults, uploads that were lost, doubled or cut."""
    found = [
        f"{count} answers were {status}" for status, count in seen.statuses.items() if status not in {"200", "429"}
    ]
    listed = [
        (file.id, file.bytes)
        async for file in sdk.files.list(purpose="fine-tune", limit=1000)
        if file.filename == "a.jsonl"
    ]
    if sorted(listed) != sorted(uploaded.items()):
        found.append(
            f"{len(uploaded)} uploads were answered, and {len(listed)} are listed; lost or doubled, or not whole"
        )
    return found


# ------------------------------------------------------------------------------------------------ the server


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`milepost serve` in a process of its own, with its defaults, over a data folder that is gone afterwards."""
    from milepost.modeling.pull import pull

    pull(folder / "bases" / BASE, BASE, from_dir=None, on_progress=lambda *_: None)
    environment = os.environ | {
        "MILEPOST_BASES_DIR": str(folder / "bases"),
        "MILEPOST_CONFIG_DIR": str(folder / "config"),
        "MILEPOST_DEFAULT_BASE": BASE,
        "MILEPOST_BOOTSTRAP_KEY": KEY,
    }
    command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(folder / "data")]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        local = folder / "config" / "local.json"
        while not local.exists():
            if process.poll() is not None:
                sys.exit((folder / "serve.log").read_text())
            time.sleep(0.05)
        yield process, json.loads(local.read_text())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def percentile(values: list[float], share: float) -> float:
    """The nearest rank's; 0 of nothing."""
    ordered = sorted(values)
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) if ordered else 0.0


def spread(values: list[float]) -> dict[str, float]:
    return {
        "n": len(values),
        **{f"p{round(share * 100)}": percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)},
    }


if __name__ == "__main__":
    main()
