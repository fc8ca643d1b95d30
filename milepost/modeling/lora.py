"""An adapter that is being trained: fp32 masters, and the buffers the forward pass multiplies with.

`Lora.flat` holds every master in one tensor, so that the optimizer makes one step, its state is two tensors, and the
norm of the gradient is one number. After each step `refresh` copies them into the products `[W | B]` (`adapters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from milepost.modeling.adapters import AdapterConfig, key, shapes
from milepost.modeling.llama import FUSED, Llama, LlamaConfig


class Lora:
    """Lives as long as a training run. `tensors` are views of `flat` under PEFT's names; `model` shares its weights
    with the products, so that the base is in memory once.
    """

    def __init__(self, model: Llama, config: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
        self.config = config
        self.flat = torch.cat([tensors[name].float().flatten() for name, _ in shapes(model.config, config.rank)])
        self.flat.grad = torch.zeros_like(self.flat)
        self.tensors = _views(self.flat, model.config, config.rank)
        self._joined = [{name: _with_room(w, self._room(name)) for name, w in layer.items()} for layer in model.linears]
        self._a = [
            {name: w.new_empty(self._room(name), w.shape[1]) for name, w in one.items()} for one in model.linears
        ]
        self._leaves = [self._make_leaves(model.config, layer) for layer in range(model.config.layers)]
        self.model = replace(
            model,
            linears=tuple({name: w[:, : -self._room(name)] for name, w in layer.items()} for layer in self._joined),
        )
        self.refresh()

    def refresh(self) -> None:
        """Bring the buffers up to date with the masters: after each optimizer step, and after a state was loaded."""
        with torch.no_grad():
            for joined, lows, leaves in zip(self._joined, self._a, self._leaves, strict=True):
                for name, (a, *bs) in leaves.items():
                    lows[name].copy_(a)
                    for block, b in zip(self._blocks(joined[name], name, bs), bs, strict=True):
                        block.copy_(b * self.config.scale)

    def linear(self, layer: int, name: str, x: Tensor) -> Tensor:
        """The product with the adapter, for `llama.hidden_states`."""
        buffers = _Buffers(self._a[layer][name], self._joined[layer][name], self.config.rank, self.config.scale)
        out: Tensor = _Product.apply(buffers, x, *self._leaves[layer][name])  # type: ignore[no-untyped-call]  # torch's
        return out

    def _room(self, name: str) -> int:
        return self.config.rank * len(FUSED[name])

    def _blocks(self, joined: Tensor, name: str, bs: list[Tensor]) -> list[Tensor]:
        """Where each part's B stands in `joined` (out, in + parts · rank): a block diagonal behind the weights."""
        room = joined[:, -self._room(name) :]
        rows = room.split([len(b) for b in bs])
        return [row[:, i * self.config.rank : (i + 1) * self.config.rank] for i, row in enumerate(rows)]

    def _make_leaves(self, config: LlamaConfig, layer: int) -> dict[str, list[Tensor]]:
        """What autograd sees of each product: its parts' A as one tensor, then each B; gradients go to `flat.grad`."""
        assert self.flat.grad is not None
        gradients = _views(self.flat.grad, config, self.config.rank)
        leaves = {}
        for name, parts in FUSED.items():
            inputs, _ = config.features(name)
            names = [key(layer, part, "A") for part in parts], [key(layer, part, "B") for part in parts]
            a = _leaf(
                _stacked(self.tensors, names[0], self._room(name), inputs),
                _stacked(gradients, names[0], self._room(name), inputs),
            )
            leaves[name] = [a, *(_leaf(self.tensors[b], gradients[b]) for b in names[1])]
        return leaves


def fresh_tensors(config: LlamaConfig, rank: int, seed: int) -> dict[str, Tensor]:
    """An adapter that changes nothing yet: A drawn as PEFT draws it (Kaiming, a = √5), B zero."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape).uniform_(-(shape[1] ** -0.5), shape[1] ** -0.5, generator=generator)
        if ".lora_A." in name
        else torch.zeros(shape)
        for name, shape in shapes(config, rank)
    }


@dataclass(frozen=True, slots=True)
class _Buffers:
    low_a: Tensor  # (parts · rank, in), in the base's dtype
    joined: Tensor  # (out, in + parts · rank): [W | B]
    rank: int
    scale: float


class _Product(torch.autograd.Function):
    """`[x | x·aᵀ] · joinedᵀ`: rounded once, and only `[x | h]` is kept for the way back.

    The masters (A, then each part's B) are taken only so that autograd hands them their gradients.
    """

    @staticmethod
    def forward(ctx: Any, buffers: _Buffers, x: Tensor, _a: Tensor, *bs: Tensor) -> Tensor:
        inputs = x.shape[-1]
        both = x.new_empty(len(x), buffers.joined.shape[1])
        both[:, :inputs] = x
        both[:, inputs:] = x @ buffers.low_a.T
        ctx.save_for_backward(both)
        ctx.buffers, ctx.sizes = buffers, [len(b) for b in bs]
        return both @ buffers.joined.T

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (both,), buffers = ctx.saved_tensors, ctx.buffers
        inputs, rank = buffers.low_a.shape[1], buffers.rank
        x, h = both[:, :inputs], both[:, inputs:]
        d_b = (d_out.T @ h).float() * buffers.scale
        d_bs = [rows[:, i * rank : (i + 1) * rank] for i, rows in enumerate(d_b.split(ctx.sizes))]
        d_x = None
        if ctx.needs_input_grad[1]:
            d_both = d_out @ buffers.joined
            d_h = d_both[:, inputs:].contiguous()
            d_x = torch.addmm(d_both[:, :inputs], d_h, buffers.low_a)
        else:  # the first product of the first layer: nothing below it learns
            d_h = d_out @ buffers.joined[:, inputs:]
        return None, d_x, (d_h.T @ x).float(), *d_bs


def _views(flat: Tensor, config: LlamaConfig, rank: int) -> dict[str, Tensor]:
    views, offset = {}, 0
    for name, (rows, columns) in shapes(config, rank):
        views[name] = flat[offset : offset + rows * columns].view(rows, columns)
        offset += rows * columns
    return views


def _stacked(views: Mapping[str, Tensor], names: list[str], rows: int, columns: int) -> Tensor:
    """Views that stand in a row in memory, as one: `shapes` orders the A of a fused product so."""
    return views[names[0]].as_strided((rows, columns), (columns, 1))


def _leaf(value: Tensor, gradient: Tensor) -> Tensor:
    leaf = value.detach().requires_grad_()
    leaf.grad = gradient
    return leaf


def _with_room(weight: Tensor, room: int) -> Tensor:
    return torch.cat((weight, weight.new_zeros(len(weight), room)), dim=1)
