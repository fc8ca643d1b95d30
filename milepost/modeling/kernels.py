"""What a decode step does between its products, compiled on this machine where it can be.

With a few rows a step is made of some fifteen hundred operations of a few microseconds each, and torch takes as long to
get each of them going: that was half of a step's time (`bench/LOG.md`). `kernels.cpp` has four in their place. It is
compiled when an engine first starts on a machine, in a second or two, and kept beside the bases. Where there is no
compiler, or the numbers are not bf16, torch computes as everywhere else; the tests hold the two against each other.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = "g++"
#: No -ffast-math: linked in, it would change how the whole process rounds numbers next to zero.
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-fPIC", "-shared")
COMPILE_S = 60

#: Sizes of a head that `kernels.cpp` is compiled for.
HEAD_SIZES = frozenset({16, 32, 64, 128})

ARGUMENTS = {
    "add_norm": (*[c_void_p] * 4, c_int, c_int, c_float),
    "silu_product": (c_void_p, c_void_p, c_int, c_int),
    "attend": (c_int, *[c_void_p] * 7, c_int, c_int, c_int, c_int64),
    "lora": (*[c_void_p] * 7, *[c_int] * 5),
}


class Kernels:
    """Tensors are bf16 and contiguous unless said otherwise."""

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, arguments in ARGUMENTS.items():
            getattr(library, name).argtypes = arguments
        self._library = library

    def add_norm(self, x: Tensor, y: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """Add `y` to `x` (rows, width), in place, and give the norm of that."""
        out = torch.empty_like(x)
        added = None if y is None else y.data_ptr()
        self._library.add_norm(x.data_ptr(), added, weight.data_ptr(), out.data_ptr(), *x.shape, eps)
        return out

    def silu_product(self, gate_up: Tensor) -> Tensor:
        """`silu(gate) · up` (rows, width) of (rows, 2 · width)."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._library.silu_product(gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out

    def attend(
        self, qkv: Tensor, turn: tuple[Tensor, Tensor], positions: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Rotate, keep and attend for the rows 0 … n-1 of `keys` and `values` (rows, kv_heads, context, head_dim).

        `qkv` is (rows, features), `turn` the cos and sin (rows, head_dim / 2) in fp32.
        """
        _, kv_heads, context, size = keys.shape
        rows, heads = len(qkv), qkv.shape[1] // size - 2 * kv_heads
        out = qkv.new_empty(rows, heads * size)
        given = (qkv, *turn, positions, keys, values, out)
        found = self._library.attend(size, *(each.data_ptr() for each in given), rows, heads, kv_heads, context)
        assert found, size
        return out

    def lora(self, x: Tensor, a: Tensor, b: Tensor, *, slots: Tensor, ranks: Tensor, ends: Tensor) -> Tensor:
        """What each row's adapter adds, (rows, outputs): `a` (slots, columns, inputs), `b` (slots, columns, outputs).

        `slots` (rows,) has -1 for none, `ranks` (slots,) each one's rank, `ends` where the product's parts end.
        """
        rows, inputs = x.shape
        _, columns, outputs = b.shape
        out = x.new_empty(rows, outputs)
        given = (x, a, b, slots, ranks, ends, out)
        self._library.lora(*(each.data_ptr() for each in given), rows, len(ends), inputs, columns, outputs)
        return out


def load(folder: Path) -> Kernels | None:
    """The kernels, compiled into `folder` if they are not there yet; None where that is not possible."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        log.info("there is no %s: what lies between products is computed by torch", COMPILER)
        return None
    target = folder / f"kernels-{_fingerprint(compiler)}.so"
    try:
        if not target.exists():
            _compile(compiler, target)
        return Kernels(ctypes.CDLL(str(target)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("kernels could not be compiled, torch computes instead: %s", error)
        return None


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_S)  # noqa: S603 (all of it is ours)
        made.replace(target)


def _fingerprint(compiler: str) -> str:
    """Of all that the library depends on: a cache may be shared by machines with other processors."""
    try:
        found = re.search(r"^flags\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    told = (*FLAGS, compiler, found[0] if found else os.uname().machine)
    return hashlib.sha256(SOURCE.read_bytes() + "\0".join(told).encode()).hexdigest()[:16]
