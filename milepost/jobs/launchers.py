"""Starting training processes, and finding those that are running already.

A child runs in a session of its own: what ends the control plane (a crash, Ctrl-C in its terminal) does not reach it.
It is found again by its run directory, whose lock it holds as long as it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from milepost.resources.runs import CHILD_ENVIRONMENT, LOCK, LOG, PROGRESS, WAIT, Order, Progress

NO_SECRETS: Mapping[str, str] = MappingProxyType({})


class Child(Protocol):
    def is_alive(self) -> bool: ...

    def kill(self) -> None:
        """End it at once (SIGKILL). A child can take that at any instant: what it saved, it saved whole."""
        ...

    def how_it_ended(self) -> str:
        """For people: an exit status if it is known."""
        ...


class Launcher(Protocol):
    """A way to run training processes; `tests/contract/test_launcher.py` says what is expected of one."""

    def launch(self, directory: Path, secrets: Mapping[str, str] = NO_SECRETS) -> Child:
        """Start a child in this run directory; what it prints is appended to its log.

        `secrets` are added to the environment of this child only.
        """
        ...

    def warm(self) -> None:
        """Have a process ready for a launch that is to come soon, where starting one takes long."""
        ...

    def let_go(self) -> None:
        """End what was made ready and is not needed."""
        ...

    def find(self, directory: Path) -> Child | None:
        """The child that is running in this directory, whoever started it."""
        ...


class Local:
    """Children of this machine. One that was made ready has imported what it needs, and waits on its stdin for an
    order; it goes when that is closed, by whatever ended the control plane.
    """

    def __init__(self, environment: Mapping[str, str], command: Sequence[str]) -> None:
        self._environment = child_environment(environment)
        self._command = tuple(command)
        self._ready: subprocess.Popen[bytes] | None = None

    def launch(self, directory: Path, secrets: Mapping[str, str] = NO_SECRETS) -> Child:
        process = self._ordered(directory, secrets) or self._new(directory, secrets)
        return _Started(process, directory)

    def warm(self) -> None:
        if self._ready is not None and self._ready.poll() is None:
            return
        self._ready = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [*self._command, WAIT],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def let_go(self) -> None:
        process, self._ready = self._ready, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ordered(self, directory: Path, secrets: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        """The process that is ready, with its order; None if there is none, or it is gone."""
        process, self._ready = self._ready, None
        if process is None or process.stdin is None:
            return None
        order = Order(directory=str(directory), secrets=dict(secrets))
        try:
            with process.stdin as stdin:
                stdin.write(order.model_dump_json().encode() + b"\n")
        except BrokenPipeError:
            process.wait()
            return None
        return process

    def _new(self, directory: Path, secrets: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with (directory / LOG).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [*self._command, str(directory)],
                env={**self._environment, **secrets},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def find(self, directory: Path) -> Child | None:
        return _Found(directory) if _is_locked(directory) else None


#: Every launcher there is; each is built with the server's environment and the command to run in a directory.
LAUNCHERS: dict[str, Callable[[Mapping[str, str], Sequence[str]], Launcher]] = {"local": Local}
#: The command: by name, since torch is not to be imported here.
TRAINING = (sys.executable, "-m", "milepost.training")

_SECRET = re.compile(r"^MILEPOST_|KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours may inherit: neither the server's settings nor anybody's keys."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """A training process's environment: without secrets, and with what makes training fast."""
    return without_secrets(environment) | CHILD_ENVIRONMENT


class _Started:
    """A child of ours, so that its exit status is known."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory

    def is_alive(self) -> bool:
        # After an exit the lock is asked too: the child gives way if another, that a crashed control plane had just
        # started, took the directory first. Before, it is not: to ask is to hold it for a moment.
        return self._process.poll() is None or _is_locked(self._directory)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            _Found(self._directory).kill()

    def how_it_ended(self) -> str:
        code = self._process.poll()
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"


class _Found:
    """A child that a former control plane started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def is_alive(self) -> bool:
        return _is_locked(self._directory)

    def kill(self) -> None:
        # It leads its own session; a process of that id that does not is a stranger who got the number later.
        progress = Progress.model_validate_json((self._directory / PROGRESS).read_bytes())
        if progress.host not in {"", socket.gethostname()}:  # where data folders are shared: it ends with its lease
            return
        pid = progress.pid
        with contextlib.suppress(ProcessLookupError):
            if _is_locked(self._directory) and os.getsid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)

    def how_it_ended(self) -> str:
        return "exit status unknown"


def _is_locked(directory: Path) -> bool:
    try:
        lock = (directory / LOCK).open("rb")
    except FileNotFoundError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
