"""How fast this machine multiplies matrices: what a forecast needs before anything is loaded."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling import machine
from milepost.modeling.base import choose_dtype
from milepost.resources.forecasts import Speed

#: (rows, inner, columns): a batch of eight short chats through an MLP of SmolLM2-135M.
SHAPE = (1024, 576, 1536)
TRIES = 100


def measure() -> Speed:
    """The speed with one thread and with all. It is kept: measuring takes a second."""
    cores = os.cpu_count() or 1
    return Speed(
        is_quiet=machine.is_quiet(),
        machine=machine.name(),
        dtype=str(choose_dtype()).removeprefix("torch."),
        gflops={threads: round(gflops(threads), 1) for threads in sorted({1, cores})},
    )


def gflops(threads: int) -> float:
    """Billions of floating point operations per second, in the dtype that training would choose here.

    The best of many single products: what else runs at this moment is not the machine's speed.
    """
    rows, inner, columns = SHAPE
    dtype, before = choose_dtype(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
        best = min(_product_seconds(x, weight) for _ in range(TRIES))
    finally:
        torch.set_num_threads(before)
    return 2 * rows * inner * columns / best / 1e9


def _product_seconds(x: Tensor, weight: Tensor) -> float:
    began = time.perf_counter()
    functional.linear(x, weight)
    return time.perf_counter() - began
