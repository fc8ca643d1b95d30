"""The inside of the sandbox: a script that `sandbox` runs in a process of its own. It imports nothing of ours.

The process that is started, the warder, reads its orders from stdin, enters new namespaces where it may, forks the
inmate and waits: for its end, for the end of the server (which closes stdin) or for the time limit. The inmate locks
itself in, layer by layer, tells which layers hold, and only then looks at the grader's source.

What is told goes to the server over one pipe, in lines that begin with a token the grader is not given.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import ctypes
import importlib.util
import json
import linecache
import math
import numbers
import os
import resource
import secrets
import select
import signal
import struct
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

#: Longest traceback that is told; its end is what matters.
MAX_DETAILS = 8_000

Orders = Mapping[str, Any]


def main() -> None:
    orders = _read_orders()
    layers = ["limits"]
    owner = os.geteuid()
    _prefer_to_be_killed()
    if "namespaces" in orders["layers"] and _enter_namespaces():
        layers.append("namespaces")
    results = os.dup2(1, 3)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _be_inmate(orders, layers, results, owner)
        os._exit(1)
    os.close(results)
    _watch(pid, orders["limits"]["wall_s"])


def _read_orders() -> Orders:
    """Stdin stays open behind them: its end is that of the server."""
    (length,) = struct.unpack(">I", _read(4))
    orders: Orders = json.loads(_read(length))
    return orders


def _read(length: int) -> bytes:
    pieces = []
    while length:
        piece = os.read(0, min(length, 1 << 20))
        if not piece:
            sys.exit("The orders broke off")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _watch(pid: int, wall_s: float) -> None:
    """Wait for the inmate and end as it did; end it when the server is gone, or the time is over."""
    inmate = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(inmate, select.POLLIN)
    poll.register(0, select.POLLHUP)
    ended = poll.poll((wall_s + 5) * 1000)  # the server counts the time; this is for when it does no more
    if not any(descriptor == inmate for descriptor, _ in ended):
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _be_inmate(orders: Orders, layers: list[str], results: int, owner: int) -> None:
    """Lock in, from the layers that need privileges to the one that ends them all, then grade."""
    tell = _teller(results, orders["token"])
    try:
        _lock_in(orders, layers, owner)
    except OSError as error:
        tell("broken", f"{error} in {traceback.extract_tb(error.__traceback__)[-1].name}")
        return
    if missing := _missing(layers):
        tell("refused", missing)
        return
    tell("ready", ",".join(layers) + "\n")
    sys.meta_path.append(_Packages(orders["packages"]))
    TASKS[orders["task"]](orders, tell)


def _missing(layers: list[str]) -> str:
    """The least that must hold: no system call but the listed ones, and no file but the listed ones."""
    if "seccomp" not in layers:
        return "seccomp"
    if not {"landlock", "view"} & set(layers):
        return "landlock"
    return ""


def _teller(results: int, token: str) -> Callable[[str, str], None]:
    write, surrogates = os.write, "backslashreplace"

    def tell(kind: str, text: str) -> None:
        left = f"{token} {kind} {text}".encode(errors=surrogates)
        while left:
            left = left[write(results, left) :]

    return tell


# --- the layers -------------------------------------------------------------------------------------------------------


def _lock_in(orders: Orders, layers: list[str], owner: int) -> None:
    wanted, limits = orders["layers"], orders["limits"]
    _keep_to_standard_streams()
    view = "namespaces" in layers and "view" in wanted and _enter_view(orders)
    if view:
        layers.append("view")
    _limit(limits, writes=view)
    if owner == 0 and "uid" in wanted and _others_can_run(orders, parents=not view) and _drop_root():
        layers.append("uid")
    if "uid" in layers or "namespaces" in layers:  # elsewhere all the user's processes would be counted
        _no_more_than(resource.RLIMIT_NPROC, limits["threads"])
    _drop_capabilities()
    _prctl(PR_SET_DUMPABLE, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    if "landlock" in wanted and _landlock(orders, view=view):
        layers.append("landlock")
    if "seccomp" in wanted and orders["filter"] and _seccomp(base64.b64decode(orders["filter"])):
        layers.append("seccomp")


def _keep_to_standard_streams() -> None:
    """No stdin; stdout is stderr, and besides them only the pipe for results (3) is open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


CLONE_NEWUSER = 0x10000000
#: Mounts, hostname, System V queues, processes, network.
NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000


def _enter_namespaces() -> bool:
    """With root's rights where there are any, else in a user namespace of our own, where we are only ourselves."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and LIBC.unshare(NAMESPACES) == 0:
        return True
    if LIBC.unshare(CLONE_NEWUSER | NAMESPACES) != 0:
        return False
    with contextlib.suppress(OSError):  # unmapped, it has fewer rights: the layers below find out which
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    return True


MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1 << 5, 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
#: The only folder a grader can write to, and where it starts.
SCRATCH = "/tmp"  # noqa: S108 (the sandbox's own)
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def _enter_view(orders: Orders) -> bool:
    """A root folder that holds the interpreter's files, read-only, and an empty /tmp that is the whole disk."""
    root, disk = orders["root"], orders["limits"]["disk_bytes"]
    try:
        _mount(None, "/", None, MS_REC | MS_PRIVATE, None)
        _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
        os.makedirs(root + SCRATCH, exist_ok=True)
        sizes = f"size={disk},nr_inodes={max(16, disk // 4096)},mode=1777"
        _mount("tmpfs", root + SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, sizes)
        covers = [f"{tree['path']}/{name}" for tree in orders["trees"] for name in tree["hide"]]
        covers = [root + path for path in covers if os.path.isdir(path)]
        for tree in orders["trees"]:
            _bind(tree["path"], root + tree["path"])
            for cover in covers:
                if os.path.dirname(cover) == root + tree["path"]:
                    _mount("tmpfs", cover, "tmpfs", MS_NOSUID | MS_NODEV, "size=256k,mode=755")
        for cover in covers:  # now that what is not hidden has been bound into it
            _mount(None, cover, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)
        _bind(os.devnull, root + os.devnull, read_only=False)
        os.chdir(root)
        _check(LIBC.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
        _check(LIBC.umount2(b".", MNT_DETACH))
        _mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)
    except (OSError, KeyError):
        os.chdir("/")
        return False
    os.chdir(SCRATCH)
    return True


def _bind(source: str, target: str, *, read_only: bool = True) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY))
    _mount(source, target, None, MS_BIND | MS_REC, None)
    if read_only:  # with what the mount has already: a user namespace may add to it, not take away
        kept = os.statvfs(target).f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | kept, None)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind, data)]
    _check(LIBC.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]))


def _limit(limits: Mapping[str, Any], *, writes: bool) -> None:
    """Hard limits, so that they cannot be raised. Where nothing bounds a whole disk, no file may be written at all."""
    cores = sorted(os.sched_getaffinity(0), key=lambda _: secrets.randbelow(1 << 30))  # not the same ones for all
    os.sched_setaffinity(0, cores[: limits["cpus"]])
    os.nice(10)  # the server goes first
    _no_more_than(resource.RLIMIT_CPU, limits["cpu_s"])
    _no_more_than(resource.RLIMIT_AS, limits["memory_bytes"])
    _no_more_than(resource.RLIMIT_FSIZE, limits["disk_bytes"] if writes else 0)
    _no_more_than(resource.RLIMIT_NOFILE, limits["open_files"])
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        _no_more_than(kind, 0)


def _no_more_than(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _prefer_to_be_killed() -> None:
    """When the machine runs out of memory, a grader goes before the server does."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _others_can_run(orders: Orders, *, parents: bool) -> bool:
    """Whether a stranger to this machine can read the interpreter; one that only root can read is run as root's."""
    for path in (os.__file__, os.path.dirname(os.__file__), *(tree["path"] for tree in orders["trees"][:1])):
        if not os.stat(path).st_mode & 0o004:
            return False
        while parents and path != "/":
            path = os.path.dirname(path)  # noqa: PLW2901
            if not os.stat(path).st_mode & 0o001:
                return False
    return True


NOBODY = 65534


def _drop_root() -> bool:
    """Become a user that owns nothing: one that no other process has, or nobody where few users are mapped."""
    for uid in ((1 << 30) + secrets.randbelow(1 << 30), NOBODY):
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:
            continue
        return True
    return False


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    _check(LIBC.capset(header, bytes(24)))


PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
READ_FILE, READ_DIR = 1 << 2, 1 << 3
WRITE_FILE = 1 << 1
#: Write, read, list, remove folders and files, make folders and files, rename between folders, truncate.
KEEP = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 13, 14))
#: How many of the rights to files each version of Landlock's interface knows, from the first bit on.
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}


def _landlock(orders: Orders, *, view: bool) -> bool:
    """Forbid everything the kernel's Landlock can forbid, then allow the interpreter's files to be read."""
    version = LIBC.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = (1 << RIGHTS[min(version, 5)]) - 1
    network = 0b11 if version >= 4 else 0  # to bind and to connect
    scoped = 0b11 if version >= 6 else 0  # abstract sockets, signals
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = LIBC.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    _check(rules)
    for path, rights in _allowed(orders, view=view):
        _allow(rules, path, rights & handled)
    _check(LIBC.syscall(LANDLOCK_RESTRICT, rules, 0))
    os.close(rules)
    return True


def _allowed(orders: Orders, *, view: bool) -> Iterator[tuple[str, int]]:
    yield os.devnull, READ_FILE | WRITE_FILE
    if view:
        yield SCRATCH, KEEP
    for tree in orders["trees"]:
        path = tree["path"]
        if not tree["hide"]:
            yield path, READ_FILE | READ_DIR
            continue
        yield path, READ_DIR  # a right goes for all beneath: so the files are allowed one by one
        for name in os.listdir(path):
            if name not in tree["hide"]:
                yield f"{path}/{name}", READ_FILE | READ_DIR


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # a link to nothing
        return
    if not os.path.isdir(path):
        rights &= READ_FILE | WRITE_FILE
    _check(LIBC.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", rights, place), 0))
    os.close(place)


def _seccomp(program: bytes) -> bool:
    """The last layer: after it, only the system calls that the program lets through."""
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    wrapped = Program(len(program) // 8, ctypes.addressof(code))
    return bool(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(wrapped), 0, 0) == 0)


def _prctl(option: int, value: int) -> None:
    _check(LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- the grader -------------------------------------------------------------------------------------------------------


class _Packages:
    """Finds the installed packages that a grader may import. Their folder, which holds others, is not on the path."""

    def __init__(self, packages: Mapping[str, Any]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if path is not None or target is not None or name not in self._packages:
            return None
        found = self._packages[name]
        folders = found["folders"]
        return importlib.util.spec_from_file_location(name, found["origin"], submodule_search_locations=folders)


FILE = "grader.py"
NO_GRADE = "The source defines no function `grade(sample, item)`"


def _grade(orders: Orders, tell: Callable[[str, str], None]) -> None:
    """Run the source, then its function `grade`. Whatever happens is told: that is all that comes out."""
    exit_, finite, real = os._exit, math.isfinite, numbers.Real
    source = orders["source"]
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    module = types.ModuleType("grader")
    sys.modules["grader"] = module
    try:
        exec(compile(source, FILE, "exec"), module.__dict__)  # noqa: S102 (this is what the sandbox is for)
        reward = module.__dict__["grade"](orders["sample"], orders["item"])
        if not isinstance(reward, real):
            raise TypeError(f"grade() returned {reward!r:.100}, which is not a number")  # noqa: TRY301
        number = float(reward)
        if not finite(number):
            raise ValueError(f"grade() returned {number}, which is not a finite number")  # noqa: TRY301
        tell("value", number.hex())
    except KeyError as error:
        missing = error.args == ("grade",) and "grade" not in module.__dict__
        tell("error", NO_GRADE if missing else _traceback(error))
    except BaseException as error:  # noqa: BLE001 (SystemExit too: it is the grader's, not ours)
        tell("error", _traceback(error))
    exit_(0)


def _traceback(error: BaseException) -> str:
    """The part of a traceback that is the grader's own."""
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, frames))
    return text if len(text) <= MAX_DETAILS else "…" + text[-MAX_DETAILS:]


def _check_source(orders: Orders, tell: Callable[[str, str], None]) -> None:
    """What can be known of a source without running it."""
    try:
        tree = ast.parse(orders["source"], FILE)
        compile(tree, FILE, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        tell("error", f"{type(error).__name__}: {str(error) or 'it is nested too deep'}")
        return
    if problem := _unlike_grade(tree):
        tell("error", problem)
        return
    tell("value", (0.0).hex())


def _unlike_grade(tree: ast.Module) -> str:
    """Why the name `grade` cannot be what it should be; it may come from a definition, an assignment or an import."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "grade":
            arguments = node.args
            enough = len(arguments.posonlyargs + arguments.args) >= 2 or arguments.vararg
            return "" if enough else "`grade` must take two arguments: `def grade(sample, item)`"
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    names |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    names |= {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return "" if "grade" in names else NO_GRADE


TASKS = {"grade": _grade, "check": _check_source}

if __name__ == "__main__":
    main()
