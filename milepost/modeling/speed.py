"""How fast this machine multiplies matrices: what a forecast needs before anything is loaded."""

from __future__ import annotations

import time

import torch
from torch.nn import functional

from milepost.modeling.base import choose_dtype

#: (rows, inner, columns): a batch of eight short chats through an MLP of SmolLM2-135M.
SHAPE = (1024, 576, 1536)
MEASURED_S = 0.3


def gflops(threads: int) -> float:
    """Billions of floating point operations per second, in the dtype that training would choose here."""
    rows, inner, columns = SHAPE
    dtype, before = choose_dtype(threads), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x, weight = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
        products, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < MEASURED_S:
            functional.linear(x, weight)
            products += 1
    finally:
        torch.set_num_threads(before)
    return products * 2 * rows * inner * columns / taken / 1e9
