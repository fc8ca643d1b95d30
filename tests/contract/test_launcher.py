"""What every launcher does. The child is a stand-in: it locks its directory and does as it is told there."""

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


@pytest.fixture(params=sorted(LAUNCHERS))
def launcher(request: pytest.FixtureRequest, command: list[str]) -> Launcher:
    environment = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "secret", "MILEPOST_BOOTSTRAP_KEY": "secret"}
    return LAUNCHERS[request.param](environment, command)


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


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "MILEPOST_DATA_DIR"])
def test_names_that_may_be_secrets_are_kept_back(name: str) -> None:
    assert name not in child_environment({name: "x"})


def test_a_child_outlives_the_control_plane(command: list[str], directory: Path) -> None:
    """The whole process group of the control plane is killed, as closing its terminal would."""
    plane = (
        "import sys, time\nfrom pathlib import Path\nfrom milepost.jobs.launchers import Local\n"
        "Local({}, sys.argv[2:]).launch(Path(sys.argv[1]))\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", plane, str(directory), *command], start_new_session=True) as process:
        until((directory / "environment.json").exists)
        os.killpg(process.pid, signal.SIGKILL)
    found = Local({}, command).find(directory)
    assert found.is_alive()
    leave(directory, found, 0)
