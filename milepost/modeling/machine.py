"""What machine this is, and how much memory a process has had. No torch: forecasts are made where none is loaded."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def name() -> str:
    """Processor, cores and PyTorch: what a measurement of speed holds for."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return f"{_processor()}, {os.cpu_count() or 1} cores, PyTorch {torch}"


def is_quiet() -> bool:
    """Whether little else has run for a minute: a measurement made now is the machine's."""
    return os.getloadavg()[0] < (os.cpu_count() or 1) / 2


def be_nice(niceness: int) -> None:
    """Let others go first, if this process leads a session of its own. Where the kernel shares processors out between
    sessions (`man 7 sched`, "The autogroup feature"), a nice value counts within one only, and the session has its own.
    """
    if os.getsid(0) != os.getpid():  # of a terminal, say: the session is not ours
        return
    os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):  # no such kernel, or not asked to share so
        Path("/proc/self/autogroup").write_text(str(niceness))


def cores() -> frozenset[int]:
    """The cores this process may use now; none where the system does not say."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def threads(process: int) -> list[int]:
    """The threads of a process, those first that have computed most; none of one that has ended."""
    found = []
    with contextlib.suppress(OSError):
        for folder in Path(f"/proc/{process}/task").iterdir():
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]  # in user mode, and in the kernel's
            found.append((-sum(map(int, ticks)), int(folder.name)))
    return [thread for _, thread in sorted(found)]


def put(thread: int, chosen: AbstractSet[int]) -> None:
    """Have a thread run on these cores only, if it lives and is ours to say."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, chosen)


def keep_to(process: int, chosen: AbstractSet[int]) -> None:
    """Have all threads of a process run on these cores only."""
    for thread in threads(process):
        put(thread, chosen)


def peak_memory_bytes() -> int:
    """The most memory (resident set) this process has had. On Linux not `ru_maxrss`, which a child inherits."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def memory_bytes() -> int:
    """The memory a process here can have: that of the machine, of its container or service, or what this process was
    given.
    """
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in _memory_limits():
        with contextlib.suppress(OSError, ValueError):  # nobody limits this one, or "max"
            found.append(int(file.read_text()))
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return min(found if soft == resource.RLIM_INFINITY else [*found, soft])


def limit_memory(most_bytes: int) -> None:
    """Have this process get no more than this for its data; what asks for more gets an error."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes if hard == resource.RLIM_INFINITY else min(most_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _memory_limits() -> Iterator[Path]:
    """Where limits for this process may stand: those of its control groups and of all that they are in, be they of
    version 2 or 1 (`man 7 cgroups`). In a container they are mounted as if its own were the outermost.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounted = Path("/sys/fs/cgroup")
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
