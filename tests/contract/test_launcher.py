"""What every launcher does. The child is a stand-in: it locks its directory and does as it is told there."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from milepost.jobs.launchers import LAUNCHERS, Child, Launcher, Local, child_environment

STAND_IN = """
import fcntl, json, os, sys, time
from pathlib import Path
if sys.argv[1] == "--wait":
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    order = json.loads(line)
    os.environ |= order["secrets"]
    log = os.open(order["directory"] + "/run.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    sys.argv[1] = order["directory"]
directory = Path(sys.argv[1])
lock = (directory / "lock").open("a")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("another process runs here")
progress = {"heartbeat": 0, "pid": os.getpid(), "phase": "training"}
(directory / "progress.json.new").write_text(json.dumps(progress))
(directory / "progress.json.new").rename(directory / "progress.json")
(directory / "environment.json.new").write_text(json.dumps(dict(os.environ)))
(directory / "environment.json.new").rename(directory / "environment.json")
print("words for the log", flush=True)
while not (directory / "leave").exists():
    time.sleep(0.01)
sys.exit(int((directory / "leave").read_text()))
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    (tmp_path / "leave").write_text("0")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


@pytest.fixture(params=[(name, is_warm) for name in sorted(LAUNCHERS) for is_warm in (False, True)], ids=str)
def launcher(request: pytest.FixtureRequest, command: list[str]) -> Iterator[Launcher]:
    """Each launcher there is, without and with a process that was made ready."""
    environment = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "secret", "MILEPOST_BOOTSTRAP_KEY": "secret"}
    name, is_warm = request.param
    made = LAUNCHERS[name](environment, command)
    if is_warm:
        made.warm()
    yield made
    made.let_go()


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waiting.wait(0.005)
    pytest.fail("waited ten seconds in vain")


def started(launcher: Launcher, directory: Path) -> Child:
    child = launcher.launch(directory)
    until((directory / "environment.json").exists)
    return child


def leave(directory: Path, child: Child, code: int) -> None:
    (directory / "leave").write_text(str(code))
    until(lambda: not child.is_alive())


def test_a_child_lives_until_it_leaves(launcher: Launcher, directory: Path) -> None:
    child = started(launcher, directory)
    assert child.is_alive()
    leave(directory, child, 3)
    assert child.how_it_ended() == "exit status 3"


def test_a_killed_child_is_dead_and_says_so(launcher: Launcher, directory: Path) -> None:
    child = started(launcher, directory)
    child.kill()
    until(lambda: not child.is_alive())
    assert child.how_it_ended() == "killed by SIGKILL"


def test_a_secret_is_in_the_environment_of_its_child_and_no_argument(launcher: Launcher, directory: Path) -> None:
    child = launcher.launch(directory, {"WANDB_API_KEY": "a-secret"})
    until((directory / "environment.json").exists)
    assert json.loads((directory / "environment.json").read_text())["WANDB_API_KEY"] == "a-secret"
    pid = json.loads((directory / "progress.json").read_text())["pid"]
    assert b"a-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    leave(directory, child, 0)
    (directory / "environment.json").unlink()
    (directory / "leave").unlink()
    started(launcher, directory)
    assert "WANDB_API_KEY" not in json.loads((directory / "environment.json").read_text())


def test_killing_the_dead_does_no_harm(launcher: Launcher, directory: Path) -> None:
    child = started(launcher, directory)
    leave(directory, child, 0)
    child.kill()
    assert child.how_it_ended() == "exit status 0"


def test_what_a_child_prints_is_appended_to_its_log(launcher: Launcher, directory: Path) -> None:
    (directory / "run.log").write_text("from before\n")
    started(launcher, directory)
    until(lambda: "words" in (directory / "run.log").read_text())
    assert (directory / "run.log").read_text() == "from before\nwords for the log\n"


def test_where_no_child_is_none_is_found(launcher: Launcher, directory: Path) -> None:
    assert launcher.find(directory) is None
    leave(directory, started(launcher, directory), 0)
    assert launcher.find(directory) is None


def test_a_child_of_a_former_control_plane_is_found_and_can_be_killed(launcher: Launcher, directory: Path) -> None:
    ours = started(launcher, directory)
    found = launcher.find(directory)
    assert found.is_alive()
    found.kill()
    until(lambda: not ours.is_alive())
    assert not found.is_alive()


def test_a_second_child_gives_way_and_the_first_counts_as_alive(launcher: Launcher, directory: Path) -> None:
    first = started(launcher, directory)
    second = launcher.launch(directory)
    until(lambda: "another process runs here" in (directory / "run.log").read_text())
    assert second.is_alive()
    first.kill()
    until(lambda: not second.is_alive())


def test_a_child_gets_no_secrets(launcher: Launcher, directory: Path) -> None:
    started(launcher, directory)
    assert "secret" not in (directory / "environment.json").read_text()
    assert '"OMP_WAIT_POLICY": "PASSIVE"' in (directory / "environment.json").read_text()


def test_one_that_was_made_ready_and_died_is_replaced(launcher: Launcher, directory: Path) -> None:
    launcher.let_go()
    before = waiting_children()
    launcher.warm()
    (ready,) = waiting_children() - before
    os.kill(ready, signal.SIGKILL)
    until(lambda: ready not in waiting_children())
    child = started(launcher, directory)
    leave(directory, child, 3)
    assert child.how_it_ended() == "exit status 3"


def test_one_is_made_ready_once_and_let_go(launcher: Launcher) -> None:
    launcher.let_go()
    before = waiting_children()
    launcher.warm()
    launcher.warm()
    assert len(waiting_children() - before) == 1
    launcher.let_go()
    launcher.let_go()
    assert not waiting_children() - before


def waiting_children() -> set[int]:
    """The processes of this one that were made ready, and have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            is_ready = (folder / "cmdline").read_bytes().rstrip(b"\0").endswith(b"--wait")
            if int(parent) == os.getpid() and is_ready and state != "Z":
                found.add(int(folder.name))
    return found


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "MILEPOST_DATA_DIR"])
def test_names_that_may_be_secrets_are_kept_back(name: str) -> None:
    assert name not in child_environment({name: "x"})


@pytest.mark.parametrize("makes_ready", ["", "launcher.warm()"])
def test_a_child_outlives_the_control_plane(command: list[str], directory: Path, makes_ready: str) -> None:
    """The whole process group of the control plane is killed, as closing its terminal would."""
    plane = (
        "import sys, time\nfrom pathlib import Path\nfrom milepost.jobs.launchers import Local\n"
        f"launcher = Local({{}}, sys.argv[2:])\n{makes_ready}\nlauncher.launch(Path(sys.argv[1]))\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", plane, str(directory), *command], start_new_session=True) as process:
        until((directory / "environment.json").exists)
        os.killpg(process.pid, signal.SIGKILL)
    found = Local({}, command).find(directory)
    assert found.is_alive()
    leave(directory, found, 0)
