"""Training beside serving: it pauses for chats, keeps its share, and computes what it computes."""

import os
import subprocess
import sys
import threading
import time

import pytest

from milepost.modeling import machine
from milepost.training import directory as module
from milepost.training.directory import held
from milepost.training.run import main
from tests.training.reading import outputs


@pytest.fixture
def run(make_run):
    return make_run("run")


def flag(run, until):
    file = run.parent.parent / "busy"
    file.touch()
    os.utime(file, (until, until))
    return file


@pytest.fixture
def naps(monkeypatch):
    taken = []
    monkeypatch.setattr(module.time, "sleep", taken.append)
    return taken


@pytest.mark.parametrize(("until_s", "naps_taken"), [(60, True), (-1, False)])
def test_it_pauses_while_chats_wait_and_no_longer(run, naps, until_s, naps_taken):
    file = flag(run, time.time() + until_s)
    with held(run) as directory:
        directory._computing_since -= 0.05
        directory.give_way()
    assert bool(naps) is naps_taken
    file.unlink()


def test_without_a_flag_nothing_is_paused(run, naps):
    with held(run) as directory:
        directory._computing_since -= 0.05
        directory.give_way()
    assert naps == []


def test_it_keeps_its_share_however_long_chats_wait(run, monkeypatch):
    """A clock that moves with the naps only: 3 s of computing allow 2 s of pause."""
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: clock.__setitem__(0, clock[0] + s))
    file = flag(run, time.time() + 30)
    with held(run) as directory:
        clock[0] += 3.0
        before = clock[0]
        directory.give_way()
    assert clock[0] - before == pytest.approx(2.0, abs=0.02)
    file.unlink()


def test_a_run_that_gave_way_ends_with_the_same_bytes(make_run):
    alone, beside = make_run("alone"), make_run("beside")
    main(alone)
    file = flag(beside, time.time() + 3600)
    main(beside)
    file.unlink()
    assert outputs(beside) == outputs(alone)


needs_two_cores = pytest.mark.skipif(len(machine.cores()) < 2, reason="needs two cores to be left one of")


@pytest.fixture
def one_core():
    """One of those this process has; it has all of them again afterwards."""
    cores = machine.cores()
    yield frozenset(sorted(cores)[:1])
    machine.keep_to(os.getpid(), cores)


@needs_two_cores
def test_a_process_that_a_dead_engine_left_few_cores_takes_them_back(run, one_core):
    before = machine.cores()
    with held(run) as directory:
        machine.keep_to(os.getpid(), one_core)
        assert machine.cores() == one_core
        directory.give_way()
    assert machine.cores() == before


@needs_two_cores
def test_a_run_whose_cores_come_and_go_ends_with_the_same_bytes(make_run, one_core):
    alone, beside = make_run("alone", threads=2), make_run("beside", threads=2)
    main(alone)
    (beside.parent.parent / "trainers").mkdir(exist_ok=True)
    cores, is_over = machine.cores(), threading.Event()

    def share():
        while not is_over.wait(0.002):
            machine.keep_to(os.getpid(), one_core)
            is_over.wait(0.002)
            machine.keep_to(os.getpid(), cores)

    sharing = threading.Thread(target=share)
    sharing.start()
    try:
        main(beside)
    finally:
        is_over.set()
        sharing.join()
    assert outputs(beside) == outputs(alone)
    assert list((beside.parent.parent / "trainers").iterdir()) == []


@pytest.mark.parametrize(("leads_a_session", "niceness"), [(True, 7), (False, 0)])
def test_a_session_of_its_own_is_nice_and_nobody_elses(leads_a_session, niceness):
    code = (
        "import os; from pathlib import Path; from milepost.modeling import machine; machine.be_nice(7);"
        "print(os.getpriority(os.PRIO_PROCESS, 0));"
        "group = Path('/proc/self/autogroup'); print(group.read_text() if group.exists() else '')"
    )
    before = os.getpriority(os.PRIO_PROCESS, 0)
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=leads_a_session, capture_output=True, text=True, check=True
    )
    own, _, group = done.stdout.strip().partition("\n")
    assert int(own) == max(before, niceness)
    if group and leads_a_session:
        assert group.endswith("nice 7")
