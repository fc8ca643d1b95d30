"""Running a Python grader where it can do no harm; docs/explanation/python-graders.md says what that means.

The source runs in a process of its own, `jail`, which first gives up everything it can do without. Which layers the
machine offers is found out by each run anew; if the least of them is missing, the source is not run. Linux only.
"""

from __future__ import annotations

import base64
import importlib.util
import logging
import math
import os
import platform
import secrets
import selectors
import signal
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from milepost.errors import Invalid, Unavailable
from milepost.graders import seccomp

log = logging.getLogger(__name__)

JAIL = Path(__file__).with_name("jail.py")

#: Those that a machine may lack. Limits are everywhere.
LAYERS = frozenset({"namespaces", "view", "uid", "landlock", "seccomp"})

#: What OpenAI's image 2025-05-08 holds, with what it needs: a grader may import those that are installed here.
PACKAGES = (
    *("numpy", "scipy", "sympy", "mpmath", "rapidfuzz", "deepdiff", "orderly_set", "sqlparse", "yaml", "_yaml"),
    *("pandas", "dateutil", "pytz", "tzdata", "six", "sklearn", "joblib", "threadpoolctl"),
    *("rouge_score", "absl", "nltk", "click", "regex", "tqdm"),
    *("jsonschema", "jsonschema_specifications", "referencing", "rpds", "attr", "attrs"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"),
)

#: Longest answer of the jail: a reward, or a traceback.
MAX_RESULT_BYTES = 64 * 1024
#: One that prints more is ended: reading it all would keep the server busy.
MAX_PRINTED_BYTES = 64 << 20
#: How soon a run notices that nobody waits for it any more.
STOP_S = 0.05


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. `disk_bytes` is memory too: the scratch folder is a tmpfs."""

    wall_s: float = 120.0
    cpu_s: int = 240
    memory_bytes: int = 2 << 30
    disk_bytes: int = 1 << 30
    cpus: int = 2
    threads: int = 64
    open_files: int = 64
    output_bytes: int = 16_000


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended: with a reward; with an `error` of the grader's own; or with a `fault` of the sandbox.

    `output` is the beginning of what the grader printed, `layers` those that held while it ran.
    """

    reward: float | None = None
    error: str | None = None
    fault: str | None = None
    output: str = ""
    layers: frozenset[str] = frozenset()


def run(
    source: str,
    sample: Mapping[str, Any],
    item: Mapping[str, Any],
    *,
    limits: Limits = Limits(),
    layers: frozenset[str] = LAYERS,
    stop: threading.Event | None = None,
) -> Ran:
    """Run `grade(sample, item)` of this source. `layers` are those to try; `stop` ends the run when it is set.

    Raises `Invalid` where the machine lacks a layer that must hold.
    """
    return _run(_Orders("grade", source, sample, item, limits, layers), stop or threading.Event())


def check(source: str) -> str | None:
    """What is wrong with this source, as far as can be known without running it.

    Raises as `run` does, and `Unavailable` if the sandbox did not start.
    """
    ran = _run(_Orders("check", source, {}, {}, Limits(wall_s=10, cpu_s=10), LAYERS), threading.Event())
    if ran.fault is not None:
        raise Unavailable(f"The sandbox of python graders failed ({ran.fault}); the server's log has the cause")
    return ran.error


@dataclass(frozen=True, slots=True)
class _Orders:
    task: Literal["grade", "check"]
    source: str
    sample: Mapping[str, Any]
    item: Mapping[str, Any]
    limits: Limits
    layers: frozenset[str]
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def frame(self, root: str) -> bytes:
        program = seccomp.program(platform.machine())
        orders = {
            "task": self.task,
            "source": self.source,
            "sample": self.sample,
            "item": self.item,
            "limits": asdict(self.limits),
            "layers": sorted(self.layers),
            "token": self.token,
            "root": root,
            "trees": [{"path": str(path), "hide": hide} for path, hide in _trees().items()],
            "packages": {name: {"origin": p.origin, "folders": p.folders} for name, p in _packages().items()},
            "filter": base64.b64encode(program).decode() if program else None,
        }
        body = orjson.dumps(orders)
        return struct.pack(">I", len(body)) + body


def _run(orders: _Orders, stop: threading.Event) -> Ran:
    if sys.platform != "linux":
        raise _refused("seccomp")
    with _process() as (process, root):
        try:
            frame = orders.frame(root)
        except TypeError as error:
            return Ran(error=f"The answer or the item cannot be given to a grader: {error}")
        heard = _hear(process, frame, orders.limits, stop)
    return _read(heard, process.returncode, orders)


@contextmanager
def _process() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A jail, with nothing of ours but three pipes. However the block ends, no process is left of it."""
    with tempfile.TemporaryDirectory(prefix="milepost-grader-") as root:
        process = subprocess.Popen(  # noqa: S603 (our own script)
            (_python(), "-I", "-S", "-B", "-u", "-X", "utf8", str(JAIL)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"},
            start_new_session=True,
        )
        try:
            yield process, root
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with suppress(OSError):  # what could not be written to a process that is gone
                    pipe and pipe.close()


@dataclass(slots=True)
class _Heard:
    results: bytearray = field(default_factory=bytearray)
    output: bytearray = field(default_factory=bytearray)
    printed: int = 0
    ended: Literal["by itself", "late", "loud", "stopped"] = "by itself"


def _hear(process: subprocess.Popen[bytes], frame: bytes, limits: Limits, stop: threading.Event) -> _Heard:
    """Give the orders and listen until both pipes close, the time is over, or nobody waits any more."""
    assert process.stdin and process.stdout and process.stderr  # noqa: PT018
    heard = _Heard()
    deadline = time.monotonic() + limits.wall_s
    left = memoryview(frame)
    with selectors.DefaultSelector() as selector:
        for pipe, event in ((process.stdin, 2), (process.stdout, 1), (process.stderr, 1)):
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, event)
        while process.stdout in (files := _files(selector)) or process.stderr in files:
            if stop.is_set():
                heard.ended = "stopped"
                break
            if heard.printed > MAX_PRINTED_BYTES:
                heard.ended = "loud"
                break
            if time.monotonic() > deadline:
                heard.ended = "late"
                break
            for key, _ in selector.select(min(STOP_S, max(0.0, deadline - time.monotonic()))):
                if key.fileobj is process.stdin:
                    left = _write(process.stdin, left)
                    if not left:
                        selector.unregister(process.stdin)  # but it stays open: its end would be ours
                elif key.fileobj is process.stdout:
                    _take(selector, key.fd, heard.results, MAX_RESULT_BYTES)
                else:
                    heard.printed += _take(selector, key.fd, heard.output, limits.output_bytes)
    return heard


def _files(selector: selectors.BaseSelector) -> list[Any]:
    return [key.fileobj for key in selector.get_map().values()]


def _write(pipe: IO[bytes], left: memoryview) -> memoryview:
    try:
        return left[os.write(pipe.fileno(), left) :]
    except BrokenPipeError:  # it died: what it printed tells why
        return left[:0]


def _take(selector: selectors.BaseSelector, descriptor: int, into: bytearray, most: int) -> int:
    """Read on, keeping only so much; how much was read."""
    piece = os.read(descriptor, 1 << 16)
    into += piece[: max(0, most - len(into))]
    if not piece:
        selector.unregister(descriptor)
    return len(piece)


def _read(heard: _Heard, code: int, orders: _Orders) -> Ran:
    """What the run's end means. Only lines that begin with the token are the jail's; the grader's own do not count."""
    output = heard.output.decode(errors="replace")
    if heard.ended == "stopped":
        return Ran(fault="stopped", output=output)
    first, _, rest = heard.results.decode(errors="replace").partition("\n")
    token, _, words = first.partition(" ")
    kind, _, text = words.partition(" ")
    if token == orders.token and kind == "refused":
        raise _refused(text)
    if token != orders.token or kind != "ready":
        log.error("a python grader's sandbox did not start: %s (exit code %s): %s", text or "no word", code, output)
        return Ran(fault="sandbox_start_failed", output=output)
    layers = frozenset(text.split(","))
    if heard.ended in ENDED:
        return Ran(error=ENDED[heard.ended].format(orders.limits.wall_s), output=output, layers=layers)
    token, _, words = rest.partition(" ")
    kind, _, text = words.partition(" ")
    if token != orders.token or kind not in {"value", "error"}:
        return Ran(error=_death(code, orders.limits), output=output, layers=layers)
    if kind == "error":
        return Ran(error=text, output=output, layers=layers)
    return _reward(text, output, layers)


ENDED = {
    "late": "The grader was ended: it ran for more than {:g} s",
    "loud": f"The grader was ended: it printed more than {MAX_PRINTED_BYTES >> 20} MiB",
}


def _reward(text: str, output: str, layers: frozenset[str]) -> Ran:
    with suppress(ValueError, OverflowError):
        if math.isfinite(reward := float.fromhex(text)):
            return Ran(reward=reward, output=output, layers=layers)
    return Ran(error=f"The grader gave no finite number, but {text[:100]!r}", output=output, layers=layers)


def _death(code: int, limits: Limits) -> str:
    number = code - 128 if code > 128 else -code
    if number == signal.SIGKILL:
        return f"The grader was killed: it used more than {limits.cpu_s} s of processor time, or too much memory"
    if number > 0:
        return f"The grader's process crashed ({signal.strsignal(number) or f'signal {number}'})"
    return f"The grader ended its process (exit code {code}) before grade() had returned"


WHY = {
    "seccomp": "the kernel takes no filter of system calls (seccomp), or the machine is neither x86_64 nor aarch64",
    "landlock": "the kernel has no Landlock (Linux 5.13 and newer), and mount namespaces are not allowed here",
}


def _refused(layer: str) -> Invalid:
    return Invalid(
        f"Python graders are not run on this server, since nothing would hold them: {WHY[layer]}. "
        "Use another type of grader, or run the server on Linux where this is allowed",
        param="grader.type",
        code="python_grader_unavailable",
    )


# --- what a grader can see --------------------------------------------------------------------------------------------


def _python() -> str:
    """The interpreter itself: that of a virtual environment is a link to it, from a folder graders do not see."""
    return str(getattr(sys, "_base_executable", sys.executable))


@dataclass(frozen=True, slots=True)
class _Package:
    origin: str
    folders: list[str] | None


@cache
def _packages() -> Mapping[str, _Package]:
    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            folders = spec.submodule_search_locations
            found[name] = _Package(
                str(Path(spec.origin).resolve()), [str(Path(f).resolve()) for f in folders or ()] or None
            )
    return found


@cache
def _trees() -> Mapping[Path, list[str]]:
    """Folders and files that are there to be read, and what beneath them is not. The standard library comes first."""
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    trees = {standard: ["site-packages", "dist-packages"]}
    trees |= {path: [] for path in (*_libraries(standard), Path("/usr/share/zoneinfo"), Path("/etc/ld.so.cache"))}
    for name, package in _packages().items():
        places = [Path(place) for place in package.folders or [package.origin]]
        trees |= {path: [] for path in (*places, places[0].with_name(f"{name}.libs"))}
    return {path: hidden for path, hidden in trees.items() if os.access(path, os.R_OK)}


def _libraries(standard: Path) -> Iterator[Path]:
    """Where shared libraries are that the interpreter and its extensions may need."""
    own = Path(sysconfig.get_config_var("LIBDIR") or "/")
    if os.access(own, os.R_OK):
        yield from own.glob("libpython*.so*")
    yield from standard.parent.glob("libpython*.so*")
    several = sysconfig.get_config_var("MULTIARCH")
    yield from (Path(top, several or ".") for top in ("/lib", "/usr/lib"))
    yield from (Path("/lib64"), Path("/usr/lib64"))
