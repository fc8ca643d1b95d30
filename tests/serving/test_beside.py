"""An engine and those who train share the cores of a machine."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from milepost.modeling import machine, trainers
from milepost.serving.beside import LOOK_S, Beside
from tests.serving.fakes import Clock

ALL = machine.cores()
TRAINER = """
import os, sys, threading
from pathlib import Path
from milepost.modeling.trainers import told
for _ in os.sched_getaffinity(0):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
with told(Path(sys.argv[1])):
    print("told", flush=True)
    sys.stdin.read()
"""

pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two cores to share out")


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "ftjob-1" / "train"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "trainers").mkdir()
    return folder


@pytest.fixture
def folder(run):
    return run.parent.parent / "trainers"


@pytest.fixture
def trainer(run):
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "told\n"
        yield process
        process.kill()


@pytest.fixture
def naps():
    return []


@pytest.fixture
def engine(folder, naps):
    """An engine of one thread, and its clock; afterwards this process has all cores again."""
    clock = Clock()
    yield Beside(folder, threads=1, pace=1.5, clock=clock, sleep=naps.append), clock
    machine.keep_to(os.getpid(), ALL)


def cores_of(process):
    """Where each thread may run."""
    return [frozenset(os.sched_getaffinity(thread)) for thread in machine.threads(process.pid)]


def test_training_keeps_off_the_engines_cores_while_a_token_is_computed(engine, trainer):
    beside, _ = engine
    with beside.step():
        mine = machine.cores()
        assert len(mine) == 1
        assert not mine & frozenset().union(*cores_of(trainer))
    homes = cores_of(trainer)
    assert all(len(home) == 1 for home in homes)
    assert frozenset().union(*homes) == ALL


def test_it_has_its_cores_back_though_the_step_fails(engine, trainer):
    beside, _ = engine
    with pytest.raises(ZeroDivisionError), beside.step():
        _ = 1 / 0
    assert frozenset().union(*cores_of(trainer)) == ALL


def test_an_engine_on_all_cores_shares_them_as_the_kernel_does(folder, trainer, naps):
    beside = Beside(folder, threads=len(ALL), pace=1.5, clock=Clock(), sleep=naps.append)
    with beside.step():
        assert machine.cores() == ALL
        assert set(cores_of(trainer)) == {ALL}
    beside.rest(0.1, 1)
    assert naps == pytest.approx([0.05])


def test_the_engine_rests_until_a_token_has_taken_its_pace(engine, trainer, naps):
    beside, _ = engine
    for seconds in (0.2, 0.1, 0.12, 0.3):
        with beside.step():
            pass
        beside.rest(seconds, 1)
    assert naps == pytest.approx([0.1, 0.05, 0.03])  # the last took longer than its pace: no rest is left


def test_how_fast_a_token_can_be_is_known_for_each_number_of_rows(engine, trainer, naps):
    beside, _ = engine
    with beside.step():
        pass
    beside.rest(0.1, 1)
    beside.rest(0.4, 16)
    assert naps == pytest.approx([0.05, 0.2])


def test_without_training_nobody_rests_and_all_cores_are_everybodys(engine, naps):
    beside, _ = engine
    with beside.step():
        assert machine.cores() == ALL
    beside.rest(0.1, 1)
    assert naps == []


@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_when_training_ends_however_it_ends_all_is_as_before(engine, trainer, folder, naps, number):
    beside, clock = engine
    with beside.step():
        assert machine.cores() != ALL
    if number is None:
        trainer.communicate()
    else:
        trainer.send_signal(number)
        trainer.wait()
    clock.now += LOOK_S
    with beside.step():
        assert machine.cores() == ALL
    beside.rest(0.1, 1)
    assert naps == []
    assert list(folder.iterdir()) == []


def test_who_trains_on_other_machines_is_left_alone(folder):
    (folder / "elsewhere-1").touch()
    assert list(trainers.alive(folder)) == []
    assert (folder / "elsewhere-1").exists()
    assert socket.gethostname() != "elsewhere"


def test_without_a_folder_nobody_is_looked_for(naps):
    beside = Beside(None, threads=1, pace=2.0, sleep=naps.append)
    with beside.step():
        assert machine.cores() == ALL
    beside.rest(0.1, 1)
    assert naps == []
