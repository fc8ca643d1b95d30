"""Keys and values of running sequences: one row each, allocated once, attended to in place.

Sequences being decoded lie in rows 0 … n-1 without a gap, so that a step's keys are one strided view and nothing is
gathered. Memory is committed by the system as rows grow, not when the cache is made.

A row's result does not depend on its company: keys past a sequence's end, up to the padded length of the longest, have
probability zero, and adding zeros at the end of a sum of products changes no bit (so with
oneDNN's and MKL's products; `tests/serving/test_core.py` tries the machine at hand).
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from milepost.modeling.model import CAUSAL, Attend, Attention, Config

#: Attended lengths are padded to a multiple of this, so that products have few shapes and vectors no remainder.
BLOCK = 64


def bytes_per_row(config: Config, dtype: torch.dtype) -> int:
    """Memory of one sequence that fills the whole context."""
    return 2 * config.layers * config.kv_heads * _padded(config.context_length) * config.head_dim * dtype.itemsize


class Cache:
    """`keys[layer]` and `values[layer]` are (rows, kv_heads, padded context, head_dim)."""

    def __init__(self, config: Config, *, rows: int, dtype: torch.dtype) -> None:
        self.rows = rows
        self._config = config
        self._dtype = dtype
        shape = (config.layers, rows, config.kv_heads, _padded(config.context_length), config.head_dim)
        self._whole = _lazy_zeros(shape, dtype), _lazy_zeros(shape, dtype)
        self.keys, self.values = (side.unbind() for side in self._whole)

    def copy(self, source: int, target: int, length: int) -> None:
        """Make `target` hold the first `length` tokens of `source`."""
        for kept in (*self.keys, *self.values):
            kept[target, :, :length] = kept[source, :, :length]

    def read(self, row: int, start: int, end: int) -> Tensor:
        """A copy (2, layers, kv_heads, end - start, head_dim) of what a row holds of these positions."""
        return torch.stack([side[:, row, :, start:end] for side in self._whole])

    def write(self, row: int, start: int, kept: Tensor) -> None:
        """Put back what `read` gave."""
        for side, copied in zip(self._whole, kept, strict=True):
            side[:, row, :, start : start + copied.shape[2]] = copied

    def clear(self, row: int, length: int) -> None:
        """Zero a row that is given up: what it padded with an infinity would make 0 · ∞ of the next sequence."""
        for kept in (*self.keys, *self.values):
            kept[row, :, :length] = 0

    def decoding(self, positions: Sequence[int]) -> Attend:
        """Attention of one new token in each of the rows 0 … n-1, at these positions."""
        config, count = self._config, len(positions)
        kv_heads, length, head_dim = config.kv_heads, _padded(max(positions) + 1), config.head_dim
        at = torch.tensor(positions)
        heads = torch.arange(count * kv_heads) * self.keys[0].shape[2]
        written = heads + at.repeat_interleave(kv_heads)  # where each head's new key lies among all keys of a layer

        @cache
        def bias(window: int | None) -> Tensor:
            """Of each row and key (count · kv_heads, 1, length): 0 where it is seen."""
            hidden = _hidden(torch.arange(length), at[:, None, None], window)
            of_rows = torch.zeros(count, 1, length, dtype=self._dtype).masked_fill_(hidden, -torch.inf)
            return of_rows.repeat_interleave(kv_heads, dim=0)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, how: Attention = CAUSAL) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys.view(-1, head_dim).index_copy_(0, written, k.reshape(-1, head_dim))
            values.view(-1, head_dim).index_copy_(0, written, v.reshape(-1, head_dim))
            q = q.reshape(count * kv_heads, -1, head_dim)  # the query heads that share a key head are its rows
            keys, values = keys[:count].flatten(0, 1)[:, :length], values[:count].flatten(0, 1)[:, :length]
            return _attention(q, keys, values, bias(how.window), how).view(count, config.heads, head_dim)

        return attend

    def prefilling(self, row: int, start: int, count: int) -> Attend:
        """Attention of `count` new tokens of one row, the first at position `start`."""
        config, end = self._config, start + count
        kv_heads, head_dim = config.kv_heads, config.head_dim
        group = config.heads // kv_heads

        @cache
        def bias(window: int | None) -> Tensor:
            """Of each query and key (group · count, end): 0 where it is seen."""
            hidden = _hidden(torch.arange(end), torch.arange(start, end)[:, None], window)
            return torch.zeros(count, end, dtype=self._dtype).masked_fill_(hidden, -torch.inf).repeat(group, 1)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, how: Attention = CAUSAL) -> Tensor:
            keys, values = self.keys[layer][row, :, :end], self.values[layer][row, :, :end]
            keys[:, start:] = k.transpose(0, 1)
            values[:, start:] = v.transpose(0, 1)
            q = q.unflatten(1, (kv_heads, group)).permute(1, 2, 0, 3).reshape(kv_heads, group * count, head_dim)
            attended = _attention(q, keys, values, bias(how.window), how)
            return attended.view(config.heads, count, head_dim).transpose(0, 1)

        return attend


def _attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor, how: Attention) -> Tensor:
    """`q` (batch, queries, head_dim), keys and values (batch, length, head_dim) → as q. Softmax is inside in fp32."""
    scale = q.shape[-1] ** -0.5 if how.scale is None else how.scale
    if how.softcap is None:
        scores = torch.baddbmm(bias, q, keys.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(q, keys.transpose(1, 2)).mul_(scale / how.softcap).tanh_().mul_(how.softcap).add_(bias)
    return torch.bmm(scores.softmax(-1), values)


def _hidden(keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
    """Whether the token at a position of `queries` does not see the one at a position of `keys`."""
    later = keys > queries
    return later if window is None else later | (keys <= queries - window)


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros whose pages the system commits when first written; torch.zeros, which a GPU needs, writes them at once."""
    if torch.get_default_device().type != "cpu":
        return torch.zeros(shape, dtype=dtype)
    size = torch.Size(shape).numel() * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
