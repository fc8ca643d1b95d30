"""SQL over an API that takes its time: requests, seconds and memory, each against a bound or the SDK itself.

    python bench/sql.py [--json FILE] [--only NAME …] [--rows 1000000]

A server in a process of its own answers after a set latency and counts what it is asked. Every line has a ratio and
whether it keeps the figure of the issue; the exit code is 1 if one does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LATENCY_S = 0.05
JOBS, PAGES, PAGE = 200, 3, 100


def job(number: int) -> dict[str, Any]:
    return {
        "id": f"ftjob-{number}", "object": "fine_tuning.job", "created_at": 1_700_000_000 + number, "model": "base-a", "status": "succeeded",
        "trained_tokens": number, "organization_id": "org-1", "result_files": [f"file-{number}"], "seed": 7, "training_file": "file-t",
        "hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 1.0}, "error": None, "fine_tuned_model": None,
        "finished_at": None, "validation_file": None,
    }  # fmt: skip


def checkpoint(job_id: str, step: int) -> dict[str, Any]:
    return {
        "id": f"ftckpt_{job_id}_{step}", "object": "fine_tuning.job.checkpoint", "created_at": step, "fine_tuning_job_id": job_id,
        "fine_tuned_model_checkpoint": f"ft:{job_id}:{step}", "step_number": step,
        "metrics": {"step": step, "train_loss": 1.0 / step, "full_valid_loss": 1.5 / step},
    }  # fmt: skip


# --- the server -------------------------------------------------------------------------------------------------------


def serve(port: Any, counted: Any, latency: Any) -> None:
    """A list as long as its path says (/n/1000/…); pages are made once and kept as bytes."""
    pages: dict[tuple[str, int, int], bytes] = {}

    def page(path: str, start: int, size: int) -> bytes:
        if (path, start, size) not in pages:
            total = int((re.search(r"/n/(\d+)/", path) or (0, JOBS))[1])
            is_child = path.endswith("checkpoints")
            total = PAGES * PAGE if is_child else total
            parent = path.split("/")[-2]
            made = [
                checkpoint(parent, total - n) if is_child else job(total - n)
                for n in range(start, min(start + size, total))
            ]
            data = {"object": "list", "data": made, "has_more": start + size < total}
            pages[path, start, size] = json.dumps(data).encode()
        return pages[path, start, size]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            target = head.split(b" ", 2)[1].decode()
            path, _, query = target.partition("?")
            asked = dict(part.split("=") for part in query.split("&") if part)
            counted.value += 1
            if latency.value:
                await asyncio.sleep(latency.value)
            last = path.rsplit("/", 1)[1]
            if last.startswith("ftjob-"):
                body = json.dumps(job(int(last[6:]))).encode()
            else:
                total = PAGES * PAGE if last == "checkpoints" else int((re.search(r"/n/(\d+)/", path) or (0, JOBS))[1])
                start = total - int(re.findall(r"\d+", asked["after"])[-1]) + 1 if "after" in asked else 0
                body = page(path, start, int(asked.get("limit", 20)))
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0, limit=2**20)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


class Server:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._port, self._counted, self._latency = context.Value("i"), context.Value("i"), context.Value("d")
        self._process = context.Process(target=serve, args=(self._port, self._counted, self._latency), daemon=True)
        self._process.start()
        while not self._port.value:
            time.sleep(0.01)

    def url(self, rows: int = JOBS) -> str:
        return f"http://127.0.0.1:{self._port.value}/n/{rows}/v1"

    def asked(self) -> int:
        """How many requests since this was last asked."""
        count, self._counted.value = self._counted.value, 0
        return int(count)

    def latency(self, seconds: float) -> None:
        self._latency.value = seconds

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


# --- measuring --------------------------------------------------------------------------------------------------------


async def ask(url: str, sql: str, **provider: Any) -> tuple[list[tuple[Any, ...]], float]:
    """Rows and seconds, without the import of the SDK."""
    from milepost.sql.session import Session, openai_provider

    async with Session({"openai": openai_provider(base_url=url, api_key="k", **provider)}) as session:
        warm = await session.execute("SELECT id FROM openai.fine_tuning.jobs LIMIT 1")
        await warm.fetchall()
        started = time.perf_counter()
        rows = await (await session.execute(sql)).fetchall()
        return rows, time.perf_counter() - started


def line(name: str, value: float, unit: str, bound: float, *, at_least: bool = False, **facts: Any) -> dict[str, Any]:
    ratio = value / bound if bound else math.inf
    keeps = value >= bound if at_least else value <= bound
    return {
        "name": name,
        "value": round(value, 4),
        "unit": unit,
        "bound": round(bound, 4),
        "ratio": round(ratio, 3),
        "keeps": keeps,
        **facts,
    }


async def fan_out(server: Server, _rows: int) -> list[dict[str, Any]]:
    """200 jobs and their checkpoints, 3 pages each, against what the latency alone must take, and against the same with
    one request at a time.
    """
    sql = (
        "SELECT count(*), max(c.step_number) FROM openai.fine_tuning.jobs j "
        "JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = j.id"
    )
    server.latency(0)
    floor = min([(await ask(server.url(), sql))[1] for _ in range(3)])
    server.latency(LATENCY_S)
    server.asked()
    rows, took = await ask(server.url(), sql)
    requests = server.asked() - 1
    assert rows == [(JOBS * PAGES * PAGE, PAGES * PAGE)], rows
    from milepost.sql.providers import AT_ONCE

    lists = math.ceil(JOBS / PAGE)
    deep = lists + math.ceil(JOBS * PAGES / AT_ONCE)
    bound = 1.5 * (deep * LATENCY_S + floor)
    _, sequential = await ask(server.url(), sql, at_once=1)
    facts = {"requests": requests, "floor_s": round(floor, 3), "at_once": AT_ONCE}
    return [
        line("200 jobs with their checkpoints", took, "s", bound, **facts),
        line(
            "… against one request after another",
            sequential / took,
            "x",
            20,
            at_least=True,
            sequential_s=round(sequential, 2),
        ),
    ]


async def requests(server: Server, _rows: int) -> list[dict[str, Any]]:
    server.latency(0)
    found = []
    for name, url, sql, wanted, rows in (
        ("LIMIT 1 of a list of 1,000", server.url(1000), "SELECT id FROM openai.fine_tuning.jobs LIMIT 1", 1, 1),
        ("WHERE id = …", server.url(), "SELECT status FROM openai.fine_tuning.jobs WHERE id = 'ftjob-7'", 1, 1),
        ("200 jobs counted", server.url(), "SELECT count(*) FROM openai.fine_tuning.jobs", 2, 200),
    ):
        server.asked()
        answer, _ = await ask(url, sql)
        count = server.asked() - 1
        assert len(answer) == rows or answer == [(rows,)], answer
        found.append(line(name, count, "requests", wanted))
    return found


async def listing(server: Server, _rows: int) -> list[dict[str, Any]]:
    """100,000 rows through SQL, and through the SDK's own iteration."""
    from openai import AsyncOpenAI

    rows, url = 100_000, server.url(100_000)
    server.latency(0)
    ours = min(
        [(await ask(url, "SELECT count(*), sum(trained_tokens) FROM openai.fine_tuning.jobs"))[1] for _ in range(2)]
    )
    client = AsyncOpenAI(base_url=url, api_key="k")
    started, count = time.perf_counter(), 0
    async for _ in client.fine_tuning.jobs.list(limit=PAGE):
        count += 1
    sdk = time.perf_counter() - started
    await client.close()
    assert count == rows
    facts = {"sdk_s": round(sdk, 2), "ours_s": round(ours, 2), "ours_rows_per_s": round(rows / ours)}
    return [line("100,000 rows against the SDK's iteration", sdk / ours, "x", 5, at_least=True, **facts)]


def forget_peak() -> float:
    """Begin the peak anew, since another bench may have been higher: where it begins, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


async def memory(server: Server, rows: int) -> list[dict[str, Any]]:
    """A long list through a filter and an aggregate: what it adds to the process at its peak."""
    server.latency(0)
    await ask(server.url(), "SELECT count(*) FROM openai.fine_tuning.jobs WHERE trained_tokens > 1")
    before = forget_peak()
    answer, took = await ask(
        server.url(rows),
        "SELECT model, count(*), avg(trained_tokens) FROM openai.fine_tuning.jobs WHERE trained_tokens % 2 = 0 GROUP BY 1",
    )
    grown = peak_mib() - before
    assert answer[0][1] == rows // 2, answer
    return [line(f"{rows:,} rows, filtered and aggregated", grown, "MiB above start", 150, seconds=round(took, 1))]


async def planning(_server: Server, _rows: int) -> list[dict[str, Any]]:
    from milepost.sql.parse import parse
    from milepost.sql.session import Session, openai_provider

    sql = """
    WITH good AS (SELECT id, model, trained_tokens FROM openai.fine_tuning.jobs WHERE status = 'succeeded' AND created_at > 1700000000)
    SELECT g.model, c.step_number, min(json_extract(c.metrics, '$.full_valid_loss')) AS loss, count(*) AS n
    FROM good g JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = g.id
    LEFT JOIN openai.files.files f ON f.id = g.model
    WHERE c.step_number > 1 AND (f.bytes IS NULL OR f.bytes < 1000)
    GROUP BY 1, 2 HAVING count(*) > 0 ORDER BY loss LIMIT 10"""
    async with Session({"openai": openai_provider(base_url="http://x/v1", api_key="k")}) as session:
        times = []
        for _ in range(60):
            started = time.perf_counter()
            session.plan(parse(sql, {}).tree)  # type: ignore[union-attr]
            times.append(time.perf_counter() - started)
    times.sort()
    return [
        line(
            "planning a query with CTE, two joins, GROUP BY",
            times[len(times) // 2] * 1000,
            "ms",
            6,
            best_ms=round(times[0] * 1000, 2),
        )
    ]


async def cold(_server: Server, _rows: int) -> list[dict[str, Any]]:
    """One statement of a new process that needs the catalog and no call: what it takes, and that no SDK is imported."""
    probe = "import sys; from milepost.cli.main import main\ntry: main()\nfinally: print('openai' in sys.modules, file=sys.stderr)"
    found = []
    for sql in (
        "SHOW METHODS IN openai.fine_tuning.jobs",
        "EXPLAIN SELECT id, status FROM openai.fine_tuning.jobs",
        "SELECT id, status FROM openai.fine_tuning.jobs LIMIT 0",
    ):
        command, times = ["sql", sql, "--format", "csv"], []
        for _ in range(5):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "milepost", *command], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        done = subprocess.run([sys.executable, "-c", probe, *command], check=True, capture_output=True, text=True)
        imports_the_sdk = done.stderr.strip().endswith("True")
        one = line(f"cold start: {sql.partition(' ')[0]}", min(times), "s", 0.5, imports_the_sdk=imports_the_sdk)
        found.append({**one, "keeps": one["keeps"] and not imports_the_sdk})
    return found


BENCHES: dict[str, Callable[[Server, int], Any]] = {
    "fan_out": fan_out,
    "requests": requests,
    "listing": listing,
    "planning": planning,
    "cold": cold,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="write the lines to this file")
    parser.add_argument("--only", nargs="*", choices=list(BENCHES), default=list(BENCHES))
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the memory bench")
    asked = parser.parse_args()
    server, found = Server(), []
    try:
        for name in asked.only:
            shown = len(found)
            found += asyncio.run(BENCHES[name](server, asked.rows))
            for one in found[shown:]:
                print(
                    f"{'ok  ' if one['keeps'] else 'MISS'} {one['name']}: {one['value']} {one['unit']}, bound {one['bound']}, ratio {one['ratio']}"
                )
    finally:
        server.close()
    report = {"load_at_end": os.getloadavg()[0], "cpus": os.cpu_count(), "lines": found}
    if asked.json:
        Path(asked.json).write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(f"load average {report['load_at_end']:.1f} on {report['cpus']} CPUs")
    return 0 if all(one["keeps"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
