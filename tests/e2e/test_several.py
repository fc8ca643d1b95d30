"""Two servers and two workers over one Postgres and one data folder: a worker killed, Postgres restarted, and all the
same to the jobs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import openai
import pytest

from tests import postgres
from tests.e2e.test_server import BASE, KEY, chats, until
from tests.postgres import Cluster

pytestmark = pytest.mark.e2e

#: What a job trains with: some seconds.
HYPERPARAMETERS = {"n_epochs": 2, "batch_size": 2}
ENDED = {"succeeded", "failed", "cancelled"}


class Site:
    """`milepost serve --no-worker` and `milepost worker`, as many as are started."""

    def __init__(self, folder: Path, bases: Path, url: str) -> None:
        self.folder = folder
        self._environment = os.environ | {
            "MILEPOST_DATABASE_URL": url,
            "MILEPOST_DATA_DIR": str(folder / "data"),
            "MILEPOST_BASES_DIR": str(bases),
            "MILEPOST_DEFAULT_BASE": BASE,
            "MILEPOST_BOOTSTRAP_KEY": KEY,
            "MILEPOST_TRAINING_THREADS": "1",
            "MILEPOST_ENGINE_THREADS": "1",
            "MILEPOST_LEASE_S": "6",
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[bytes]:
        config = self.folder / f"config-{len(self.processes)}"
        given = self._environment | {"MILEPOST_CONFIG_DIR": str(config)} | environment
        with (self.folder / f"log-{len(self.processes)}").open("wb") as log:
            arguments = [sys.executable, "-m", "milepost", *command]
            self.processes.append(subprocess.Popen(arguments, env=given, stdout=log, stderr=log))
        return self.processes[-1]

    def serve(self) -> openai.OpenAI:
        local = self.folder / f"config-{len(self.processes)}" / "local.json"
        process = self.start("serve", "--no-worker", "--port", "0")
        until(lambda: local.exists() or process.poll() is not None, "the server to start")
        return openai.OpenAI(api_key=KEY, base_url=json.loads(local.read_text())["url"], max_retries=5)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(90)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with postgres.running() as cluster:
        yield cluster


@pytest.fixture
def site(tmp_path: Path, tiny_base: Path, cluster: Cluster) -> Iterator[Site]:
    site = Site(tmp_path, tiny_base.parent, cluster.url(cluster.create()))
    yield site
    site.stop()


def create(sdk: openai.OpenAI, seed: int) -> str:
    file = sdk.files.create(file=("chats.jsonl", chats(120, seed)), purpose="fine-tune").id
    method = {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}}
    return sdk.fine_tuning.jobs.create(model=BASE, training_file=file, seed=seed, method=method).id


def metrics(sdk: openai.OpenAI, job: str) -> list[tuple[int, float]]:
    events = [event for event in sdk.fine_tuning.jobs.list_events(job) if event.type == "metrics"]
    return [(event.data["step"], event.data["train_loss"]) for event in reversed(events)]


def running(sdk: openai.OpenAI, jobs: list[str]) -> list[str]:
    return [job for job in jobs if sdk.fine_tuning.jobs.retrieve(job).status == "running"]


def test_a_killed_worker_and_a_restarted_postgres_change_no_loss(site: Site, cluster: Cluster) -> None:
    one, two = site.serve(), site.serve()
    workers = [site.start("worker"), site.start("worker")]
    # undisturbed: what the seeds come to
    expected = {}
    for seed in (1, 2):
        job = create(one, seed)
        until(lambda job=job: one.fine_tuning.jobs.retrieve(job).status in ENDED, "an undisturbed job", deadline_s=240)
        expected[seed] = metrics(two, job)
    assert all(len(losses) == 120 for losses in expected.values())

    jobs = {create(sdk, seed): seed for sdk in (one, two) for seed in (1, 2, 1)}
    victim = workers[0]
    until(
        lambda: sorted(len(metrics(one, job)) > 2 for job in running(one, list(jobs))) == [True, True], "both to train"
    )
    victim.kill()
    victim.wait()
    time.sleep(1)  # its child trains on, and ends by itself when its lease is half over
    cluster.stop()
    cluster.start()
    until(
        lambda: all(one.fine_tuning.jobs.retrieve(job).status in ENDED for job in jobs),
        "the jobs to end",
        deadline_s=420,
    )
    for job, seed in jobs.items():
        assert one.fine_tuning.jobs.retrieve(job).status == "succeeded"
        assert metrics(two, job) == expected[seed]
        told = [event.message for event in two.fine_tuning.jobs.list_events(job)]
        assert told.count("The job has successfully completed") == 1
        steps = [message for message in told if message.startswith("Step ")]
        assert len(steps) == len(set(steps)) == 120
    all_told = [event.message for job in jobs for event in one.fine_tuning.jobs.list_events(job)]
    assert any("was not heard of any more" in message for message in all_told)
    model = one.fine_tuning.jobs.retrieve(next(iter(jobs))).fine_tuned_model
    assert two.chat.completions.create(model=model, messages=[{"role": "user", "content": "Who?"}], max_tokens=4).id


def test_several_processes_want_postgres(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "milepost", "worker", "--data", str(tmp_path / "data")],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "`milepost worker` is for several processes over one Postgres database" in ran.stderr
