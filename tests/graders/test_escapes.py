"""A grader that is up to no good: every attempt is made, and fails by its effect, whichever layers the machine has."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_the_least_holds_on_this_machine():
    needs("everything")
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


ARM = os.uname().machine == "aarch64"
UNSHARE, MOUNT, PIVOT_ROOT, LANDLOCK = (97, 40, 41, 444) if ARM else (272, 165, 155, 444)


@pytest.mark.parametrize(
    ("refused", "held"),
    [
        ([UNSHARE], {"limits", "seccomp", "landlock"}),
        ([MOUNT], {"limits", "seccomp", "landlock", "namespaces"}),
        ([PIVOT_ROOT], {"limits", "seccomp", "landlock", "namespaces"}),
        ([LANDLOCK], {"limits", "seccomp", "view", "namespaces"}),
    ],
)
def test_a_machine_that_refuses_a_layer_holds_graders_with_the_others(refused, held):
    needs("everything")
    reward, layers = without(refused)
    assert (reward, set(layers) - {"uid"}) == (0.5, held)


@pytest.mark.parametrize("refused", [[UNSHARE, LANDLOCK], [MOUNT, LANDLOCK]])
def test_a_machine_without_the_least_refuses_python_graders(refused):
    needs("everything")
    code, message = without(refused)
    assert code == "python_grader_unavailable"
    assert message == (
        "Python graders are not run on this server, since nothing would hold them: the kernel has no Landlock (Linux "
        "5.13 and newer), and mount namespaces are not allowed here. Use another type of grader, or run the server on "
        "Linux where this is allowed"
    )


def test_a_machine_that_takes_no_filter_refuses_python_graders():
    with pytest.raises(Invalid, match=r"the kernel takes no filter of system calls \(seccomp\)"):
        sandbox.run(HARMLESS, {}, {}, layers=sandbox.LAYERS - {"seccomp"})


def without(refused: list[int]) -> list:
    command = [sys.executable, str(Path(__file__).with_name("without.py")), json.dumps(refused), HARMLESS]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("attempt", CONTROLLED)
def test_an_attempt_succeeds_where_there_is_no_sandbox(prey, attempt):
    """Else it would prove nothing that it fails in one."""
    script = f"{source(CONTROLLED[attempt])}\nimport json\nprint('reward', grade({{}}, json.loads(sys.argv[1])))"
    command = [sys.executable, "-c", script, json.dumps(prey.item)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[-1:] == ["reward 1.0"], ended.stdout + ended.stderr
