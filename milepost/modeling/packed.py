"""Sequences of different lengths in one batch without padding: their tokens stand in rows, one after the other.

Only attention needs to know where a sequence ends. There, neighbours of similar length are padded together: on CPU
plain batched products beat SDPA's bf16 kernel, whose backward pass alone was a quarter of a step.
"""

# ruff: noqa: SLF001 (torch has no public name for a softmax's gradient)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.model import CAUSAL, Attend, Attention

#: A sequence joins a group unless it is this much longer than the group's first: padding costs, and so do many groups.
STRETCH, SLACK = 1.25, 16


@dataclass(frozen=True, slots=True)
class Group:
    """Rows `begin` … `end` hold `sequences` sequences of at most `longest` tokens; row `begin + i` → `slots[i]`."""

    begin: int
    end: int
    sequences: int
    longest: int
    slots: Tensor


@dataclass(frozen=True, slots=True)
class Packed:
    """Tokens of all sequences in rows (rows,), their positions (rows,) and how attention groups them."""

    tokens: Tensor
    positions: Tensor
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.tokens)


def pack(sequences: Sequence[Tensor]) -> Packed:
    """Put sequences in rows, in the order given: by rising length, or the groups get many."""
    lengths = [len(sequence) for sequence in sequences]
    return Packed(
        tokens=torch.cat(list(sequences)).long(),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        groups=tuple(_groups(lengths)),
    )


def packed_attention(packed: Packed) -> Attend:
    """Causal attention within each sequence, over rows: (rows, heads, head_dim) → the same."""
    masks: dict[tuple[int, int | None, int], Tensor] = {}  # the same in all layers that attend alike

    def attend_group(group: Group, how: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.is_cuda and how.window is None and how.softcap is None:
            return flash_attention(group, how, q, k, v)
        which = (group.longest, how.window, q.shape[-2] // k.shape[-2])
        if which not in masks:
            masks[which] = _mask(*which, q)
        out: Tensor = _Attention.apply(group, how, masks[which], q, k, v)  # type: ignore[no-untyped-call]  # torch's
        return out

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, how: Attention = CAUSAL) -> Tensor:  # noqa: ARG001 (a cache would ask which layer)
        if len(packed.groups) == 1:
            return attend_group(packed.groups[0], how, q, k, v)
        rows = [slice(group.begin, group.end) for group in packed.groups]
        return torch.cat([attend_group(g, how, q[at], k[at], v[at]) for g, at in zip(packed.groups, rows, strict=True)])

    return attend


def flash_attention(group: Group, how: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same by torch's fused kernels, which never keep the scores (arXiv:2307.08691): of a GPU."""
    queries, keys, values = (_apart(group, x) for x in (q, k, v))
    attended = functional.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=how.scale, enable_gqa=True
    )
    rows: Tensor = attended.transpose(1, 2).reshape(-1, *q.shape[1:])
    return rows.index_select(0, group.slots)


def _apart(group: Group, x: Tensor) -> Tensor:
    """(rows, heads, head_dim) → (sequences, heads, time, head_dim), padded with zeros."""
    padded: Tensor = x.new_zeros(group.sequences * group.longest, *x.shape[1:]).index_copy(0, group.slots, x)
    shaped: Tensor = padded.view(group.sequences, group.longest, *x.shape[1:])
    return shaped.transpose(1, 2)


def _mask(time: int, window: int | None, queries: int, like: Tensor) -> Tensor:
    """What is added to scores (queries · time, time), for each of the query heads that share a key head: -∞ hides."""
    hidden = torch.ones(time, time, dtype=torch.bool, device=like.device).triu_(1)
    if window is not None:
        hidden |= torch.ones_like(hidden).tril_(-window)
    return like.new_zeros(time, time).masked_fill_(hidden, float("-inf")).repeat(queries, 1)


def _groups(lengths: Sequence[int]) -> list[Group]:
    bounds, first = [0], 0
    for i, length in enumerate(lengths):
        if length > lengths[first] * STRETCH + SLACK:
            first = i
            bounds.append(i)
    groups, row = [], 0
    for begin, end in zip(bounds, [*bounds[1:], len(lengths)], strict=True):
        inside = lengths[begin:end]
        longest = max(inside)
        slots = torch.cat([torch.arange(length) + i * longest for i, length in enumerate(inside)])
        groups.append(Group(row, row + sum(inside), len(inside), longest, slots))
        row += sum(inside)
    return groups


class _Attention(torch.autograd.Function):
    """Softmax attention with its gradient by hand: autograd's own keeps and copies several times as much.

    Padding stands behind the tokens of a sequence, so the causal mask hides it from every real query; what padded
    queries compute is dropped, and gets no gradient. Query heads that share a key head are one product:
    (sequences · kv_heads, group · time, head_dim).
    """

    @staticmethod
    def forward(ctx: Any, group: Group, how: Attention, mask: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: PLR0917 (autograd's)
        kv_heads = k.shape[-2]
        q_heads, k_heads, v_heads = (_to_heads(group, x, kv_heads) for x in (q, k, v))
        scale = q.shape[-1] ** -0.5 if how.scale is None else how.scale
        slopes = None
        if how.softcap is None:
            scores = torch.baddbmm(mask, q_heads, k_heads.transpose(1, 2), alpha=scale)
        else:
            bounded = torch.bmm(q_heads, k_heads.transpose(1, 2)).float().mul_(scale / how.softcap).tanh_()
            slopes, scores = (1 - bounded.square()).to(q.dtype), bounded.mul_(how.softcap).add_(mask)
        shares = scores.softmax(-1).to(q.dtype)
        ctx.group, ctx.scale, ctx.kv_heads, ctx.slopes = group, scale, kv_heads, slopes
        ctx.save_for_backward(q_heads, k_heads, v_heads, shares)
        return _to_rows(group, torch.bmm(shares, v_heads), kv_heads)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[None, None, None, Tensor, Tensor, Tensor]:
        q, k, v, shares = ctx.saved_tensors
        d_heads = _to_heads(ctx.group, d_out, ctx.kv_heads)
        d_v = torch.bmm(shares.transpose(1, 2), d_heads)
        d_shares = torch.bmm(d_heads, v.transpose(1, 2))
        d_scores = torch.ops.aten._softmax_backward_data(d_shares, shares, -1, shares.dtype)
        d_scores = d_scores if ctx.slopes is None else d_scores.mul_(ctx.slopes)
        d_q, d_k = torch.bmm(d_scores, k).mul_(ctx.scale), torch.bmm(d_scores.transpose(1, 2), q).mul_(ctx.scale)
        d_q, d_k, d_v = (_to_rows(ctx.group, x, ctx.kv_heads) for x in (d_q, d_k, d_v))
        return None, None, None, d_q, d_k, d_v


def _to_heads(group: Group, x: Tensor, kv_heads: int) -> Tensor:
    """(rows, heads, head_dim) → (sequences · kv_heads, heads / kv_heads · time, head_dim), padded with zeros."""
    heads, head_dim = x.shape[-2:]
    padded = x.new_zeros(group.sequences * group.longest, heads, head_dim).index_copy_(0, group.slots, x)
    shaped = padded.view(group.sequences, group.longest, kv_heads, heads // kv_heads, head_dim)
    return shaped.permute(0, 2, 3, 1, 4).reshape(group.sequences * kv_heads, -1, head_dim)


def _to_rows(group: Group, x: Tensor, kv_heads: int) -> Tensor:
    """The way back, padding dropped."""
    head_dim = x.shape[-1]
    shaped = x.view(group.sequences, kv_heads, -1, group.longest, head_dim).permute(0, 3, 1, 2, 4)
    return shaped.reshape(group.sequences * group.longest, -1, head_dim).index_select(0, group.slots)
