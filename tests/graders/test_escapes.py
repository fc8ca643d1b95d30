"""A grader that is up to no good: every attempt is made, and fails by its effect, whichever layers the machine has."""

import json
import os
import subprocess
import sys

import pytest

from milepost.errors import Invalid
from milepost.graders import sandbox
from tests.graders.attempts import ATTEMPTS, CONTROLLED, source, together
from tests.graders.conftest import SECRET
from tests.graders.nobody import as_nobody

#: The sandboxes that machines have: all layers; a container that allows no namespaces; a kernel without Landlock.
MACHINES = {
    "everything": sandbox.LAYERS,
    "no namespaces": sandbox.LAYERS - {"namespaces", "view"},
    "no landlock": sandbox.LAYERS - {"landlock"},
}
HARMLESS = "def grade(sample, item):\n    return 0.5"


def _held(layers) -> frozenset[str]:
    try:
        return sandbox.run(HARMLESS, {}, {}, layers=layers).layers
    except Invalid:
        return frozenset()


HELD = {machine: _held(layers) for machine, layers in MACHINES.items()}


def needs(machine: str) -> None:
    """Where a machine has not even the least, its attempts cannot be made. In CI it must have them all."""
    if not HELD[machine]:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"this machine has no sandbox of the kind '{machine}'")


@pytest.mark.skipif(os.environ.get("CI") != "true" and sys.platform != "linux", reason="the sandbox is Linux only")
def test_the_least_holds_on_this_machine():
    held = HELD["everything"]
    assert "seccomp" in held
    assert held & {"landlock", "view"}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_an_attempt_fails(prey, attempt):
    needs("everything")
    ran = sandbox.run(source(ATTEMPTS[attempt]), {}, prey.item)
    assert (ran.reward, ran.error, ran.fault) == (0.0, None, None), ran.output
    assert prey.traces() == []
    assert SECRET not in ran.output


@pytest.mark.parametrize("machine", ["no namespaces", "no landlock"])
def test_attempts_fail_with_fewer_layers(prey, machine):
    needs(machine)
    ran = sandbox.run(together(ATTEMPTS), {}, prey.item, layers=MACHINES[machine])
    assert (ran.reward, ran.error, ran.fault) == (0.0, None, None), ran.output
    assert prey.traces() == []


@pytest.mark.parametrize("machine", MACHINES)
def test_attempts_fail_where_the_server_is_an_ordinary_user(prey, machine):
    """Its own files are then the grader's too, but for the sandbox."""
    needs(machine)
    if os.geteuid() != 0:
        pytest.skip("the other tests are run by one")
    ran = as_nobody(together(ATTEMPTS), prey.item, MACHINES[machine])
    assert "seccomp" in ran["layers"]
    assert "uid" not in ran["layers"]
    assert (ran["reward"], ran["error"], ran["fault"]) == (0.0, None, None), ran["output"]
    assert prey.traces() == []


@pytest.mark.parametrize("attempt", CONTROLLED)
def test_an_attempt_succeeds_where_there_is_no_sandbox(prey, attempt):
    """Else it would prove nothing that it fails in one."""
    script = f"{source(CONTROLLED[attempt])}\nimport json\nprint('reward', grade({{}}, json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", script, json.dumps(prey.item)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == ["reward 1.0"], ended.stdout + ended.stderr
