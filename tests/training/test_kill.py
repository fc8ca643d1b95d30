"""The child as the control plane starts it, killed for real."""

import os
import signal
import subprocess
import sys
import time

import pytest

from milepost.jobs.launchers import TRAINING, Local
from milepost.resources.methods import MethodType
from milepost.resources.runs import CHILD_ENVIRONMENT
from tests.training.conftest import chats, preferences
from tests.training.reading import outputs, result

pytestmark = pytest.mark.e2e


def start(run):
    return subprocess.Popen(
        [sys.executable, "-m", "milepost.training", str(run)],
        env=os.environ | CHILD_ENVIRONMENT,
        stderr=(run / "run.log").open("ab"),
    )


def wait_for_events(run, count, child):
    """Until so many events are on disk; the child is alive and in the middle of its work then."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        file = run / "events.jsonl"
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        assert child.poll() is None, (run / "run.log").read_text()
        time.sleep(0.002)
    raise AssertionError(f"no {count} events in time")


LONG = {"training": chats(60), "validation": chats(9, seed=5)}

#: For each method, runs with dropout that leave a state now and then.
METHODS = {
    MethodType.SUPERVISED: LONG,
    MethodType.DPO: {"training": preferences(60), "validation": preferences(9, seed=5)},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_child_killed_at_any_instant_ends_with_the_same_bytes(make_run, method):
    given = {"lora_dropout": 0.1}
    undisturbed, killed = (
        make_run(name, method=method, dtype="bfloat16", hyperparameters=given, **METHODS[method])
        for name in ("undisturbed", "killed")
    )
    assert start(undisturbed).wait() == 0
    for events in (4, 16, 17):  # in mid-epoch, around the checkpoint of step 15, and again soon after
        child = start(killed)
        wait_for_events(killed, events, child)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert start(killed).wait() == 0
    assert outputs(killed) == outputs(undisturbed)


def test_a_child_that_was_ready_before_its_order_comes_to_the_same_bytes(make_run):
    run, undisturbed = make_run(**LONG), make_run("undisturbed", **LONG)
    launcher = Local(os.environ, TRAINING)
    launcher.warm()
    child = launcher.launch(run)
    assert start(undisturbed).wait() == 0
    deadline = time.monotonic() + 60
    while child.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert child.how_it_ended() == "exit status 0"
    assert outputs(run) == outputs(undisturbed)
    assert "train of ftjob-test begins" in (run / "run.log").read_text()


def test_a_ready_child_goes_when_nobody_can_give_it_an_order_any_more():
    command = [sys.executable, "-m", "milepost.training", "--wait"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(make_run, number):
    run, undisturbed = make_run(**LONG), make_run("undisturbed", **LONG)
    child = start(run)
    wait_for_events(run, 5, child)
    child.send_signal(number)
    assert child.wait() == 0
    assert result(run)["outcome"] == "stopped"
    assert (run / f"state/step-{result(run)['step']}").exists()
    assert start(run).wait() == 0
    assert start(undisturbed).wait() == 0
    assert outputs(run) == outputs(undisturbed)
