"""Real servers and real children, killed and stopped in mid-epoch: the weights at the end are those of a quiet run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

pytestmark = pytest.mark.e2e

LINES = "".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"{n * 7} " * 9}]}
    )
    + "\n"
    for n in range(40)
).encode()


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        waiting.wait(0.1)
    pytest.fail(f"waited {seconds:g} seconds in vain")


@dataclass
class World:
    """A data folder, and the server that runs on it for now."""

    folder: Path
    bases: Path
    process: subprocess.Popen[bytes] | None = None
    client: OpenAI | None = None

    def serve(self) -> None:
        left = self.folder / "config" / "local.json"
        left.unlink(missing_ok=True)
        environment = {
            **os.environ,
            "MILEPOST_BASES_DIR": str(self.bases),
            "MILEPOST_CONFIG_DIR": str(left.parent),
            "MILEPOST_DEFAULT_BASE": "tiny-random-llama",
        }
        command = [sys.executable, "-m", "milepost", "serve", "--port", "0", "--data", str(self.folder / "data")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until(left.exists)
        told = json.loads(left.read_text())
        self.client = OpenAI(base_url=told["url"], api_key=told["key"])

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def create(self) -> str:
        file = self.client.files.create(file=("train.jsonl", LINES), purpose="fine-tune")
        settings = {"n_epochs": 6, "batch_size": 2}
        return self.client.fine_tuning.jobs.create(
            model="gpt-4o-mini", training_file=file.id, seed=1, hyperparameters=settings
        ).id

    def progress(self, job: str) -> dict[str, int]:
        path = self.folder / "data" / "runs" / job / "train" / "progress.json"
        return json.loads(path.read_text()) if path.exists() else {"step": 0, "pid": 0}

    def reach(self, job: str, step: int) -> None:
        until(lambda: self.progress(job)["step"] >= step)

    def finish(self, job: str) -> None:
        until(lambda: self.client.fine_tuning.jobs.retrieve(job).status == "succeeded")

    def weights(self, job: str) -> dict[int, str]:
        """The sha256 of each checkpoint's weights, by step."""
        folder = self.folder / "data" / "runs" / job / "train" / "checkpoints"
        return {
            int(each.name.removeprefix("step-")): hashlib.sha256(
                (each / "adapter_model.safetensors").read_bytes()
            ).hexdigest()
            for each in folder.iterdir()
        }

    def messages(self, job: str) -> list[str]:
        return [event.message for event in self.client.fine_tuning.jobs.list_events(job, limit=1000)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("faults"), tiny_base.parent)
    made.serve()
    yield made
    assert made.end(signal.SIGINT) == 0


@pytest.fixture(scope="module")
def quiet(world: World) -> dict[int, str]:
    """The weights of a run that nobody disturbs."""
    job = world.create()
    world.finish(job)
    return world.weights(job)


def test_a_child_that_is_killed(world: World, quiet: dict[int, str]) -> None:
    job = world.create()
    world.reach(job, 50)
    os.kill(world.progress(job)["pid"], signal.SIGKILL)
    world.finish(job)
    assert world.weights(job) == quiet
    assert len([told for told in world.messages(job) if "It is started again" in told]) == 1
    assert len([told for told in world.messages(job) if told.startswith("Step ")]) == 120


def test_a_server_that_is_killed(world: World, quiet: dict[int, str]) -> None:
    job = world.create()
    world.reach(job, 50)
    world.end(signal.SIGKILL)
    world.serve()
    world.finish(job)
    assert world.weights(job) == quiet
    told = world.messages(job)
    assert len(told) == len(set(told))


def test_a_server_that_is_stopped(world: World, quiet: dict[int, str]) -> None:
    job = world.create()
    world.reach(job, 50)
    assert world.end(signal.SIGINT) == 0
    world.serve()
    world.finish(job)
    assert world.weights(job) == quiet
    assert "Fine-tuning job resumed from its last saved state" in world.messages(job)


def test_a_job_that_is_cancelled(world: World) -> None:
    job = world.create()
    world.reach(job, 50)
    assert world.client.fine_tuning.jobs.cancel(job).status == "cancelled"
    until((world.folder / "data" / "runs" / job / "train" / "result.json").exists)
    until(lambda: "let go" in (world.folder / "server.log").read_text())
    assert len(world.client.fine_tuning.jobs.checkpoints.list(job).data) >= 2
