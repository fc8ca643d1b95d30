"""A live server on a data folder, the SDK pointed at it, and the processes that a fault may hit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import openai

KEY = "sk-proj-the-key-of-the-torture-chamber-0123"
QUESTION = [{"role": "user", "content": "Who are you?"}]
FINAL = {"succeeded", "failed", "cancelled"}
#: Events that only tell of a restart: all that a fault may add to a job's history.
RESTART = re.compile(r"started again and goes on|resumed from its last saved state|^Training was interrupted")
#: How long training will take is foreseen with the machine's speed, which is measured again when it was busy.
FORECAST = re.compile(r"(?<=epochs), .* tokens/s.*$")
#: What differs between two jobs that do the same: the names of jobs, files and models.
NAMES = re.compile(r"ftjob-\w+|file-\w+|(?<=:)[A-Za-z0-9]{8}(?=:ckpt-step-\d+$|$)")


def since(rows: list[Any], earlier: list[Any]) -> list[Any]:
    """What has come to the top of a list, newest first; raises unless the rest of it is what it was."""
    count = len(rows) - len(earlier)
    assert rows[count:] == earlier
    return rows[:count]


def until(condition: Callable[[], object], what: str, deadline_s: float = 300.0) -> None:
    """Wait for a condition; raise by name when it does not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline_s:g} s for {what}")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Kind:
    """A job that is made again and again."""

    name: str
    model: str
    lines: int
    request: dict[str, Any] = field(default_factory=dict)
    is_preference: bool = False

    def data(self) -> bytes:
        draw = random.Random(self.name)
        words = ["red", "green", "blue", "one", "two", "three", "north", "south", "east", "west"]
        return b"".join(self._line(draw.choices(words, k=6), draw.choices(words, k=4)) for _ in range(self.lines))

    def _line(self, ask: list[str], say: list[str]) -> bytes:
        asked, said = {"role": "user", "content": " ".join(ask)}, {"role": "assistant", "content": " ".join(say)}
        line: dict[str, Any] = {"messages": [asked, said]}
        if self.is_preference:
            other = {"role": "assistant", "content": "no"}
            line = {"input": {"messages": [asked]}, "preferred_output": [said], "non_preferred_output": [other]}
        return json.dumps(line).encode() + b"\n"


_OFTEN = {"n_epochs": 4, "batch_size": 2, "checkpoint_every": 20, "lora_dropout": 0.1}
SUPERVISED = Kind("supervised", "tiny-random-llama", 60, {"seed": 7, "hyperparameters": _OFTEN})
PREFERENCES = Kind(
    "preferences",
    "tiny-random-llama",
    40,
    {"seed": 8, "method": {"type": "dpo", "dpo": {"hyperparameters": _OFTEN}}},
    is_preference=True,
)
REAL = Kind(
    "real",
    "smollm2-135m-instruct",
    12,
    {"seed": 9, "hyperparameters": {"n_epochs": 3, "batch_size": 4, "checkpoint_every": 2}},
)


class World:
    """`milepost serve` on one port for all its lives, so that clients find it again."""

    def __init__(
        self,
        folder: Path,
        bases: Path,
        *,
        jobs: int = 2,
        threads: int = 1,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._environment = os.environ | {
            "MILEPOST_BASES_DIR": str(bases),
            "MILEPOST_CONFIG_DIR": str(folder / "config"),
            "MILEPOST_DEFAULT_BASE": "tiny-random-llama",
            "MILEPOST_BOOTSTRAP_KEY": KEY,
            "MILEPOST_TRAINING_THREADS": str(threads),
            "MILEPOST_ENGINE_THREADS": "1",
            "MILEPOST_MAX_RUNNING_JOBS": str(jobs),
            **environment,
        }
        self.sdk = openai.OpenAI(api_key=KEY, base_url=f"http://127.0.0.1:{self._port}/v1", max_retries=0, timeout=60)
        self.lives = 0
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "milepost", "serve", "--port", str(self._port), "--data", str(self.data)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        self.lives += 1
        until(lambda: self._answers() or self.process.poll() is not None, "the server to answer", 90)
        if self.process.poll() is not None:
            raise RuntimeError(f"the server did not start: {(self.folder / 'serve.log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        try:
            self.sdk.models.list()
        except openai.APIConnectionError:
            return False
        return True

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)

    # --- processes

    def children(self) -> dict[str, int]:
        """Job → pid of the process that trains or validates it: it prints to the log of its run directory."""
        found = {}
        for pid, words in _processes():
            with contextlib.suppress(OSError):  # gone
                log = Path(f"/proc/{pid}/fd/1").readlink()
                if "milepost.training" in words and log.is_relative_to(self.data.resolve() / "runs"):
                    found[log.parents[1].name] = pid
        return found

    def engines(self) -> list[int]:
        return [pid for pid, words in _processes() if "milepost.serving" in words and _parent(pid) == self.process.pid]

    # --- what the API says

    def create(self, kind: Kind) -> str:
        file = self.sdk.files.create(file=(f"{kind.name}.jsonl", kind.data()), purpose="fine-tune")
        return self.sdk.fine_tuning.jobs.create(model=kind.model, training_file=file.id, **kind.request).id

    def listing(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every list, newest first, and of each item what never changes."""
        jobs = list(self.sdk.fine_tuning.jobs.list(limit=100))
        found: dict[str, list[tuple[Any, ...]]] = {
            "jobs": [(job.id, job.created_at) for job in jobs],
            "files": [(file.id, file.bytes) for file in self.sdk.files.list(order="desc")],
        }
        for job in jobs:
            found[f"events of {job.id}"] = [
                (event.id, event.created_at, event.message)
                for event in self.sdk.fine_tuning.jobs.list_events(job.id, limit=100)
            ]
            found[f"checkpoints of {job.id}"] = [
                (each.id, each.created_at, each.fine_tuned_model_checkpoint, each.step_number)
                for each in self.sdk.fine_tuning.jobs.checkpoints.list(job.id)
            ]
        return found

    def statuses(self) -> dict[str, str]:
        return {job.id: job.status for job in self.sdk.fine_tuning.jobs.list(limit=100)}

    def checkpoints(self, job: str) -> list[str]:
        """The names of a job's checkpoints."""
        return [each.fine_tuned_model_checkpoint for each in self.sdk.fine_tuning.jobs.checkpoints.list(job)]

    def fingerprint(self, model: str) -> str:
        """That of the weights which answer."""
        answer = self.sdk.with_options(max_retries=5).chat.completions.create(
            model=model, messages=QUESTION, max_tokens=4, temperature=0
        )
        return str(answer.system_fingerprint)

    def outcome(self, job: str) -> dict[str, Any]:
        """All that a job came to, but for ids and times: equal for two jobs that do the same, whatever befell them."""
        found = self.sdk.fine_tuning.jobs.retrieve(job)
        events = [
            (event.type, event.level, FORECAST.sub("", NAMES.sub("…", event.message)), event.data)
            for event in self.sdk.fine_tuning.jobs.list_events(job, limit=100)
            if not RESTART.search(event.message)
        ][::-1]
        return {
            "status": found.status,
            "error": None if found.error is None else found.error.message,
            "trained_tokens": found.trained_tokens,
            "metrics events": [event for event in events if event[0] == "metrics"],
            "messages": [event[:3] for event in events if event[0] != "metrics"],
            "checkpoints": [
                (each.step_number, each.metrics.model_dump(), self.fingerprint(each.fine_tuned_model_checkpoint))
                for each in self.sdk.fine_tuning.jobs.checkpoints.list(job)
            ],
            "result file": [self.sdk.files.content(file).text for file in found.result_files],
            "files of the run": dict(self._run_files(job)),
        }

    def step(self, job: str) -> int:
        try:
            return int(json.loads((self.data / "runs" / job / "train" / "progress.json").read_text())["step"])
        except FileNotFoundError:
            return 0

    def _run_files(self, job: str) -> Iterator[tuple[str, str]]:
        """The sha256 of every file of the checkpoints, and of the events of training but for their times."""
        run = self.data / "runs" / job
        for file in sorted((run / "train" / "checkpoints").glob("step-*/*")):
            yield str(file.relative_to(run)), hashlib.sha256(file.read_bytes()).hexdigest()
        told = re.sub(rb'"at":\d+', b"", (run / "train" / "events.jsonl").read_bytes())
        yield "events.jsonl", hashlib.sha256(told).hexdigest()


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:  # it has just ended
            continue
        yield int(folder.name), words


def _parent(pid: int) -> int:
    try:
        return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
