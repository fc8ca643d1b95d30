"""A time of day that jumps and a disk that takes its time, preloaded into every process: nobody is any the worse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.test_several import Site, create, metrics
from tests.postgres import Cluster, running
from tests.torture.weather import Weather
from tests.torture.world import FINAL, SUPERVISED, World, since, until

pytestmark = pytest.mark.e2e

#: 60 steps, 4 checkpoints.
SHORT = replace(
    SUPERVISED,
    request=SUPERVISED.request | {"hyperparameters": {"n_epochs": 2, "batch_size": 2, "checkpoint_every": 20}},
)
DAY_S, HOUR_S = 86_400, 3_600


@pytest.fixture(scope="module")
def weather(tmp_path_factory: pytest.TempPathFactory) -> Weather:
    return Weather(tmp_path_factory.mktemp("weather"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, weather: Weather) -> Iterator[World]:
    environment = weather.environment | {"MILEPOST_SILENCE_S": "8"}
    world = World(tmp_path_factory.mktemp("world"), tiny_base.parent, jobs=1, environment=environment)
    yield world
    weather.be()
    world.stop()


@pytest.fixture(scope="module")
def undisturbed(world: World) -> dict[str, Any]:
    """What the job comes to in fine weather."""
    job = world.create(SHORT)
    until(lambda: world.statuses()[job] in FINAL, "the undisturbed job")
    return world.outcome(job)


def steps(world: World, job: str) -> int:
    """How many a job has told of, at once: its progress is told twice a second."""
    told = world.data / "runs" / job / "train" / "events.jsonl"
    return told.read_bytes().count(b'"train_loss"') if told.exists() else 0


def watched(world: World, job: str, at_steps: dict[int, Callable[[], None]]) -> set[int]:
    """Let a job end, with something done when it has come so far; returns the processes that trained it."""
    seen: set[int] = set()

    def look() -> bool:
        seen.update(pid for each, pid in world.children().items() if each == job and steps(world, job))
        return world.statuses()[job] in FINAL

    for step in sorted(at_steps):  # nothing else is looked at meanwhile: a job of this size trains for seconds
        until(lambda step=step: steps(world, job) >= step, f"step {step}")
        at_steps[step]()
        look()
    until(look, "the job to end")
    return seen


def test_a_time_of_day_that_jumps_changes_nothing_but_what_it_says(world, weather, undisturbed):
    upload = world.sdk.uploads.create(bytes=2, filename="a", mime_type="text/plain", purpose="user_data")
    job = world.create(SHORT)
    jumps = {
        5: lambda: weather.be(ahead_s=DAY_S, write_ms=40),
        20: lambda: weather.be(ahead_s=-HOUR_S, write_ms=40),
        32: lambda: weather.be(ahead_s=2 * DAY_S, write_ms=40),
        44: weather.be,
    }
    before = world.listing()
    weather.be(write_ms=40)  # so that it can be watched
    assert len(watched(world, job, jumps)) == 1  # not taken for one that hangs, nor for another's
    assert world.outcome(job) == undisturbed
    found = world.listing()
    assert len(since(found[f"checkpoints of {job}"], before[f"checkpoints of {job}"])) == 4
    assert [since(found[name], rows) for name, rows in before.items() if job not in name and name != "files"] == [
        []
    ] * 3
    told = [event.data["step"] for event in world.sdk.fine_tuning.jobs.list_events(job) if event.type == "metrics"]
    assert told == sorted(told, reverse=True)
    assert len({at // HOUR_S for _, at, _ in found[f"events of {job}"]}) > 2  # the jumps were real
    part = world.sdk.uploads.parts.create(upload.id, data=b"ab")  # an hour has not passed
    assert world.sdk.uploads.complete(upload.id, part_ids=[part.id]).status == "completed"


def test_a_slow_disk_delays_what_waits_for_it_and_nothing_else(world, weather, undisturbed):
    weather.be(fsync_ms=50, write_ms=1)
    job = world.create(SHORT)
    assert len(watched(world, job, {})) == 1
    assert world.outcome(job) == undisturbed
    weather.be(fsync_ms=800, write_ms=20)
    ended: list[openai.types.FileObject] = []
    send = threading.Thread(
        target=lambda: ended.append(world.sdk.files.create(file=("a", b"a" * 3_000_000), purpose="user_data"))
    )
    began = time.monotonic()
    send.start()
    waited = []
    while send.is_alive():
        asked = time.monotonic()
        world.sdk.fine_tuning.jobs.list()
        waited.append(time.monotonic() - asked)
    send.join()
    assert time.monotonic() - began > 2  # of its bytes, of its folder, of its row
    assert len(waited) > 20
    assert sorted(waited)[len(waited) * 9 // 10] < 0.2
    assert world.sdk.files.content(ended[0].id).read() == b"a" * 3_000_000


def test_a_worker_whose_time_of_day_jumps_takes_no_job_of_another_and_keeps_its_own(tmp_path, tiny_base):
    with running() as cluster:
        _jump_beside(cluster, tmp_path, tiny_base)


def _jump_beside(cluster: Cluster, folder: Path, tiny_base: Path) -> None:
    site = Site(folder, tiny_base.parent, cluster.url(cluster.create()))
    weathers = [Weather(folder / name) for name in ("first", "second")]
    try:
        sdk = site.serve()
        for weather in weathers:
            site.start("worker", environment=weather.environment)
        jobs = [create(sdk, seed) for seed in (1, 2)]

        def have_come(steps: int) -> bool:
            return all(len(metrics(sdk, job)) >= steps for job in jobs)

        until(lambda: have_come(5), "both jobs to train")
        weathers[0].be(ahead_s=DAY_S)
        weathers[1].be(ahead_s=-HOUR_S)
        until(lambda: have_come(40), "both to go on")
        weathers[0].be(ahead_s=-DAY_S)
        weathers[1].be(ahead_s=HOUR_S)
        until(lambda: all(sdk.fine_tuning.jobs.retrieve(job).status in FINAL for job in jobs), "both to end")
        for job in jobs:
            told = [event.message for event in sdk.fine_tuning.jobs.list_events(job) if event.type == "message"]
            assert [each for each in told if "not heard of" in each or "resumed" in each or "goes on" in each] == []
            assert [step for step, _ in metrics(sdk, job)] == list(range(1, 121))
    finally:
        site.stop()
