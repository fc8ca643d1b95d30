"""How fast this machine multiplies matrices: what a forecast needs before anything is loaded."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.base import choose_dtype

#: (rows, inner, columns): a batch of eight short chats through an MLP of SmolLM2-135M.
SHAPE = (1024, 576, 1536)
PRODUCTS, BURSTS = 5, 20


def gflops(threads: int) -> float:
    """Billions of floating point operations per second, in the dtype that training would choose here.

    The best of some short bursts: what else runs at this moment is not the machine's speed.
    """
    rows, inner, columns = SHAPE
    dtype, before = choose_dtype(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
        best = min(_burst(x, weight) for _ in range(BURSTS))
    finally:
        torch.set_num_threads(before)
    return PRODUCTS * 2 * rows * inner * columns / best / 1e9


def _burst(x: Tensor, weight: Tensor) -> float:
    began = time.perf_counter()
    for _ in range(PRODUCTS):
        functional.linear(x, weight)
    return time.perf_counter() - began
