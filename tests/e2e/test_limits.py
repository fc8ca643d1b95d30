"""A disk that is full, memory that runs out, a process that hangs: the machine's faults, made for real."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from tests.torture.__main__ import differences
from tests.torture.world import FINAL, SUPERVISED, World, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def make_world(tmp_path: Path, tiny_base: Path) -> Iterator[Callable[..., World]]:
    made: list[World] = []

    def make(**environment: str) -> World:
        made.append(World(tmp_path / "world", tiny_base.parent, jobs=1, environment=environment))
        return made[-1]

    yield make
    for world in made:
        world.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a disk of 48 MB of its own."""
    folder = tmp_path / "world" / "data"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "milepost-test", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"needs to mount a small file system, as root may: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def messages(world: World, job: str) -> list[str]:
    return [event.message for event in world.sdk.fine_tuning.jobs.list_events(job, limit=100)][::-1]


def fill(disk: Path) -> Path:
    """Write until nothing more can be."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(64 * 1024))
        except OSError:
            pass
        try:
            while True:
                out.write(bytes(512))
        except OSError:
            return filler


#: 360 steps, enough to be stopped among, however late it is seen that one was taken.
LONG = replace(SUPERVISED, request=SUPERVISED.request | {"hyperparameters": {"n_epochs": 12, "batch_size": 2}})


@pytest.mark.parametrize("at_step", [1, 45])
def test_a_full_disk_refuses_uploads_pauses_the_job_and_loses_nothing(small_disk, make_world, at_step):
    world = make_world(MILEPOST_MIN_FREE_BYTES=str(8 * 1024 * 1024))
    first = world.create(LONG)
    until(lambda: world.statuses()[first] in FINAL, "the undisturbed job")
    expected = world.outcome(first)
    job = world.create(LONG)
    until(lambda: world.step(job) >= at_step, f"step {at_step}")
    child = world.children()[job]
    os.kill(child, signal.SIGSTOP)  # or it may train to the end before the disk is full
    assert world.step(job) < 360
    filler = fill(small_disk)
    os.kill(child, signal.SIGCONT)
    with pytest.raises(openai.InternalServerError) as refused:
        world.sdk.files.create(file=("more.jsonl", SUPERVISED.data() * 200), purpose="fine-tune")
    assert refused.value.status_code == 507
    until(lambda: world.statuses()[job] == "paused", "the job to be paused")
    assert messages(world, job)[-1].startswith("Fine-tuning job paused for want of room on the server's disk: ")
    assert [name for name in world.checkpoints(job) if not world.fingerprint(name)] == []
    filler.unlink()
    until(lambda: world.statuses()[job] in FINAL, "the job to go on")
    assert "There is room on the server's disk again: the job is back in the queue" in messages(world, job)
    found = world.outcome(job)
    found["messages"] = [told for told in found["messages"] if "room on the server's disk" not in told[2]]
    assert list(differences(found, expected)) == []


def test_a_child_that_hangs_is_killed_and_goes_on_to_the_same_bytes(make_world):
    world = make_world(MILEPOST_SILENCE_S="15")
    first = world.create(SUPERVISED)
    until(lambda: world.statuses()[first] in FINAL, "the undisturbed job")
    job = world.create(SUPERVISED)
    until(lambda: world.step(job) >= 30, "step 30")
    os.kill(world.children()[job], signal.SIGSTOP)
    until(lambda: world.statuses()[job] in FINAL, "the job to end")
    silent = [told for told in messages(world, job) if "no sign of life" in told]
    assert len(silent) == 1
    assert silent[0].startswith("The job's process showed no sign of life for 15 seconds and was killed. It is started")
    assert world.outcome(job) == world.outcome(first)


def test_a_job_that_needs_more_memory_than_it_may_have_says_so(make_world):
    world = make_world(MILEPOST_TRAINING_MEMORY_BYTES=str(200 * 1024 * 1024))
    job = world.create(SUPERVISED)
    until(lambda: world.statuses()[job] in FINAL, "the job to end")
    failed = world.sdk.fine_tuning.jobs.retrieve(job)
    assert failed.status == "failed"
    assert failed.error.code == "out_of_memory"
    assert "It was asked to train with batch_size 2 and max_length 2048" in failed.error.message


def limit_of(group: Path) -> Path | None:
    """The file of its memory's limit, by version 1 or 2 of control groups."""
    return next((group / name for name in ("memory.limit_in_bytes", "memory.max") if (group / name).exists()), None)


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group with 1 MB of memory, in that of the tests: what is put in it and asks for more, the kernel kills."""
    own = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    root = Path("/sys/fs/cgroup")
    place = root / "memory" / own["memory"].strip("/") if "memory" in own else root / own.get("", "").strip("/")
    group = place / f"milepost-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs a control group of its own, as root may make one: {error}")
    if limit_of(group) is None:
        group.rmdir()
        pytest.skip(f"needs a control group that bounds memory, and {place} does not hand that on")
    limit_of(group).write_text(str(1024 * 1024))
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), "what is in the small group to end", 30)
    group.rmdir()


def test_what_a_control_group_may_have_is_all_that_forecasts_and_engines_count_on(small_group):
    limit_of(small_group).write_text(str(1 << 30))
    looks = (
        "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()));"
        "import torch; from milepost.modeling import device, machine;"
        "print(machine.memory_bytes(), device.memory_bytes(torch.device('cpu')))"
    )
    command = [sys.executable, "-c", looks, str(small_group / "cgroup.procs")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.split() == [str(1 << 30)] * 2


def test_a_job_that_the_kernel_kills_for_want_of_memory_says_what_would_fit(make_world, small_group):
    world = make_world(MILEPOST_SILENCE_S="60")
    job = world.create(SUPERVISED)
    until(lambda: world.statuses()[job] == "running", "the job to be trained")
    put: set[int] = set()

    def has_ended() -> bool:
        pid = world.children().get(job)
        if pid is not None and pid not in put:
            put.add(pid)
            with contextlib.suppress(ProcessLookupError):
                (small_group / "cgroup.procs").write_text(str(pid))
        return world.statuses()[job] in FINAL

    until(has_ended, "the job to end")
    error = world.sdk.fine_tuning.jobs.retrieve(job).error
    assert error.code == "out_of_memory"
    assert error.message.startswith(
        "The job's process was ended, most likely by the kernel, which has killed for want of memory. That was 3 times"
    )
    assert "It was asked to train with batch_size 2 and max_length 2048, for which " in error.message
    assert "was foreseen to fit: other processes may have had the memory" in error.message
