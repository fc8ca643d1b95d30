"""The system calls a Python grader may make: a filter program for the kernel (seccomp-bpf), which denies all others.

What is not listed does not exist for a grader: no sockets of any kind, no new processes and no programs, no signals to
others, no mounts, namespaces, keys, tracing, io_uring or bpf, and whatever the kernel gets next year. Numbers are the
kernel's ABI and never change (linux/asm/unistd_64.h; asm-generic/unistd.h for aarch64).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping

#: name → (x86_64, aarch64). Files are what Landlock and the view make of them; here are only the ways to ask for them.
CALLS: Mapping[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "close": (3, 57),
    "close_range": (436, 436),
    "open": (2, None),
    "openat": (257, 56),
    "creat": (85, None),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "fadvise64": (221, 223),
    "umask": (95, 166),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "msync": (26, 227),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "pause": (34, None),
    "alarm": (37, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpgrp": (111, None),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "membarrier": (324, 283),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "arch_prctl": (158, None),
    "getrandom": (318, 278),
    "getrlimit": (97, 163),
}

ALLOW, KILL, DENY, ABSENT = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

THREAD = 0x00010000
#: CLONE_THREAD and every CLONE_NEW*: a new thread of this process passes, a new process or namespace does not.
CLONE_KINDS = THREAD | 0x7E020080

#: Offsets into struct seccomp_data.
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16

#: One test: the offset of a 32-bit word, the bits of it that are looked at, and the values that pass.
Test = tuple[int, int, tuple[int, ...]]
WHOLE = 0xFFFFFFFF


def _argument(position: int, *, high: bool = False) -> int:
    return ARGUMENTS + 8 * position + 4 * high


#: Calls that pass with some arguments only: all tests of a call must hold.
CONDITIONS: Mapping[str, tuple[tuple[int, int], tuple[Test, ...]]] = {
    "clone": ((56, 220), ((_argument(0), CLONE_KINDS, (THREAD,)),)),
    # F_SETOWN and F_SETSIG are not here: with them the kernel sends signals to a process of one's choice
    "fcntl": ((72, 25), ((_argument(1), WHOLE, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030)),)),
    # TCGETS, FIONREAD, FIONCLEX, FIOCLEX
    "ioctl": ((16, 29), ((_argument(1), WHOLE, (0x5401, 0x541B, 0x5450, 0x5451)),)),
    # PR_SET_NAME, PR_GET_NAME
    "prctl": ((157, 167), ((_argument(0), WHOLE, (15, 16)),)),
    # one's own limits, to be read
    "prlimit64": (
        (302, 261),
        ((_argument(0), WHOLE, (0,)), (_argument(2), WHOLE, (0,)), (_argument(2, high=True), WHOLE, (0,))),
    ),
}
#: glibc asks for clone3 first, whose flags no filter can see, and takes clone where it is absent.
CLONE3 = 435

#: machine → (its column above, its AUDIT_ARCH).
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
#: On x86_64, numbers from here on are those of the x32 ABI: the same calls by other names.
X32 = 0x40000000

LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06


def program(machine: str) -> bytes | None:
    """The filter for this kind of machine, as an array of struct sock_filter; None where none is known."""
    if machine not in MACHINES:
        return None
    column, architecture = MACHINES[machine]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _instructions(column, architecture))


Instruction = tuple[int, int, int, int]


def _instructions(column: int, architecture: int) -> Iterator[Instruction]:
    yield LOAD, 0, 0, ARCHITECTURE
    yield EQUAL, 1, 0, architecture
    yield RETURN, 0, 0, KILL
    yield LOAD, 0, 0, NUMBER
    yield AT_LEAST, 0, 1, X32
    yield RETURN, 0, 0, KILL
    yield EQUAL, 0, 1, CLONE3
    yield RETURN, 0, 0, ABSENT
    for numbers in CALLS.values():
        number = numbers[column]
        if number is not None:
            yield EQUAL, 0, 1, number
            yield RETURN, 0, 0, ALLOW
    for numbers_and_tests in CONDITIONS.values():
        (numbers, tests) = numbers_and_tests
        body = list(_body(tests))
        yield EQUAL, 0, len(body), numbers[column]
        yield from body
    yield RETURN, 0, 0, DENY


def _body(tests: tuple[Test, ...]) -> Iterator[Instruction]:
    for word, mask, values in tests:
        yield LOAD, 0, 0, word
        yield AND, 0, 0, mask
        for index, value in enumerate(values):
            yield EQUAL, len(values) - index, 0, value
        yield RETURN, 0, 0, DENY
    yield RETURN, 0, 0, ALLOW
