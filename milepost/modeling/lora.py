"""An adapter that is being trained: fp32 masters, and the buffers the forward pass multiplies with.

`Lora.flat` holds every master in one tensor, so that the optimizer makes one step, its state is two tensors, and the
norm of the gradient is one number. After each step `refresh` copies them into the products `[W | B]` (`adapters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import adapted, key, refuse_unknown_targets, shapes
from milepost.modeling.model import Config, Linear, Model, plain_linear

#: Of each layer's products the A of its adapted parts, stacked, then each part's B. A product without any is left out.
Layers = list[dict[str, list[Tensor]]]


class Lora:
    """Lives as long as a training run. `tensors` are views of `flat` under PEFT's names; `model` shares its weights
    with the products, so that the base is in memory once.

    `reference` is the adapter that `as_reference` computes with; without one it is the base alone.
    """

    def __init__(
        self,
        model: Model,
        config: AdapterConfig,
        tensors: Mapping[str, Tensor],
        *,
        reference: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config = config
        self.flat = _flat(tensors, model.config, config)
        self.flat.grad = torch.zeros_like(self.flat)
        self.tensors = _views(self.flat, model.config, config)
        self._parts = _parts(model.config, config)
        self._joined = [
            {name: _with_room(w, self._room(layer, name)) for name, w in products.items()}
            for layer, products in enumerate(model.linears)
        ]
        self._a = [
            {name: w.new_empty(self._room(layer, name), w.shape[1]) for name, w in products.items()}
            for layer, products in enumerate(model.linears)
        ]
        gradients = _layers(_views(self.flat.grad, model.config, config), model.config, config)
        self._leaves = _leaves(_layers(self.tensors, model.config, config), gradients)
        self._reference: Layers | None = None
        if reference is not None:
            views = _views(_flat(reference, model.config, config), model.config, config)
            self._reference = _layers(views, model.config, config)
        self.model = model.with_linears(
            tuple(
                {name: joined[name][:, : w.shape[1]] for name, w in products.items()}
                for joined, products in zip(self._joined, model.linears, strict=True)
            )
        )
        self.refresh()

    def refresh(self) -> None:
        """Bring the buffers up to date with the masters: after each optimizer step, and after a state was loaded."""
        self._fill(self._leaves)

    def linear(self, layer: int, name: str, x: Tensor) -> Tensor:
        """The product with the adapter, for `llama.hidden_states`."""
        return self._product(layer, name, x, None)

    def with_dropout(self, rate: float, seed: int) -> Linear:
        """The product with the adapter, which sees each feature of `x` with probability 1 - `rate` only; `x` · W sees
        all. Which ones follows from the seed. PEFT draws anew for each part of a fused product, this once for all.
        """
        if not rate:
            return self.linear
        generator = torch.Generator("cpu").manual_seed(seed)

        def linear(layer: int, name: str, x: Tensor) -> Tensor:
            kept = torch.empty(x.shape, dtype=torch.bool, device="cpu").bernoulli_(1 - rate, generator=generator)
            return self._product(layer, name, x, _Kept(kept.to(x.device), 1 / (1 - rate)))

        return linear

    @contextmanager
    def as_reference(self) -> Iterator[Linear]:
        """The product with what training began from: the base alone, or the adapter that it goes on from.

        That adapter takes the place of the masters in the buffers for as long: there is one base in memory.
        """
        if self._reference is None:
            yield plain_linear(self.model)
            return
        self._fill(self._reference)
        try:
            yield self.linear
        finally:
            self.refresh()

    def _product(self, layer: int, name: str, x: Tensor, kept: _Kept | None) -> Tensor:
        joined, leaves = self._joined[layer][name], self._leaves[layer].get(name)
        if leaves is None:
            return functional.linear(x, joined)
        rows = tuple(self._parts[layer][name].values())
        buffers = _Buffers(self._a[layer][name], joined, self.config.rank, self.config.scale, rows)
        out: Tensor = _Product.apply(buffers, kept, x, *leaves)  # type: ignore[no-untyped-call]  # torch's
        return out

    def _room(self, layer: int, name: str) -> int:
        return self.config.rank * len(self._parts[layer][name])

    def _fill(self, layers: Layers) -> None:
        """Copy masters into the buffers: each A, and each B onto a block diagonal behind the weights."""
        rank = self.config.rank
        with torch.no_grad():
            for joined, lows, parts, products in zip(self._joined, self._a, self._parts, layers, strict=True):
                for name, (a, *bs) in products.items():
                    lows[name].copy_(a)
                    room = joined[name][:, -rank * len(bs) :]
                    for i, (rows, b) in enumerate(zip(parts[name].values(), bs, strict=True)):
                        room[rows, i * rank : (i + 1) * rank].copy_(b * self.config.scale)


def fresh_tensors(config: Config, rank: int, seed: int, targets: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """An adapter that changes nothing yet: A drawn as PEFT draws it (Kaiming, a = √5), B zero. On the processor.

    Raises `Invalid` if the base has no module of one of the `targets`; None are all.
    """
    refuse_unknown_targets(config, targets or ())
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape, device="cpu").uniform_(-(shape[1] ** -0.5), shape[1] ** -0.5, generator=generator)
        if ".lora_A." in name
        else torch.zeros(shape, device="cpu")
        for name, shape in shapes(config, rank, targets)
    }


@dataclass(frozen=True, slots=True)
class _Buffers:
    low_a: Tensor  # (parts · rank, in), in the base's dtype
    joined: Tensor  # (out, in + parts · rank): [W | B]
    rank: int
    scale: float
    rows: tuple[slice, ...]  # which outputs each part makes


@dataclass(frozen=True, slots=True)
class _Kept:
    """What dropout leaves of `x`: `mask` like it, and what is left is scaled up by `scale`."""

    mask: Tensor
    scale: float

    def of(self, x: Tensor) -> Tensor:
        return x * self.mask * self.scale


class _Product(torch.autograd.Function):
    """`[x | x·aᵀ] · joinedᵀ`: rounded once, and only `[x | h]` is kept for the way back; with dropout `h` is of what it
    leaves of `x`, and the mask is kept too.

    The masters (A, then each part's B) are taken only so that autograd hands them their gradients.
    """

    @staticmethod
    def forward(ctx: Any, buffers: _Buffers, kept: _Kept | None, x: Tensor, _a: Tensor, *_bs: Tensor) -> Tensor:
        inputs = x.shape[-1]
        both = x.new_empty(len(x), buffers.joined.shape[1])
        both[:, :inputs] = x
        both[:, inputs:] = (x if kept is None else kept.of(x)) @ buffers.low_a.T
        ctx.save_for_backward(both)
        ctx.buffers, ctx.kept = buffers, kept
        return both @ buffers.joined.T

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        (both,), buffers, kept = ctx.saved_tensors, ctx.buffers, ctx.kept
        inputs, rank = buffers.low_a.shape[1], buffers.rank
        x, h = both[:, :inputs], both[:, inputs:]
        d_b = (d_out.T @ h).float() * buffers.scale
        d_bs = [d_b[rows, i * rank : (i + 1) * rank] for i, rows in enumerate(buffers.rows)]
        d_x = None
        if ctx.needs_input_grad[2]:
            d_both = d_out @ buffers.joined
            d_h = d_both[:, inputs:].contiguous()
            if kept is None:
                d_x = torch.addmm(d_both[:, :inputs], d_h, buffers.low_a)
            else:
                d_x = d_both[:, :inputs] + kept.of(d_h @ buffers.low_a)
        else:  # the first product of the first layer: nothing below it learns
            d_h = d_out @ buffers.joined[:, inputs:]
        d_a = d_h.T @ (x if kept is None else kept.of(x))
        return None, None, d_x, d_a.float(), *d_bs


def _flat(tensors: Mapping[str, Tensor], model: Config, config: AdapterConfig) -> Tensor:
    names = (name for name, _ in shapes(model, config.rank, config.targets))
    return torch.cat([tensors[name].float().flatten() for name in names]).to(torch.get_default_device())


def _views(flat: Tensor, model: Config, config: AdapterConfig) -> dict[str, Tensor]:
    views, offset = {}, 0
    for name, (rows, columns) in shapes(model, config.rank, config.targets):
        views[name] = flat[offset : offset + rows * columns].view(rows, columns)
        offset += rows * columns
    return views


def _parts(model: Config, config: AdapterConfig) -> list[dict[str, dict[str, slice]]]:
    """Of each layer's products the modules that are adapted, and the rows that each makes."""
    layers = (model.products(layer) for layer in range(model.layers))
    return [{name: adapted(product, config.targets) for name, product in layer.items()} for layer in layers]


def _layers(views: Mapping[str, Tensor], model: Config, config: AdapterConfig) -> Layers:
    return [
        {
            name: [_stacked([views[key(part, "A")] for part in parts]), *(views[key(part, "B")] for part in parts)]
            for name, parts in products.items()
            if parts
        }
        for products in _parts(model, config)
    ]


def _stacked(views: list[Tensor]) -> Tensor:
    """Views that stand in a row in memory, as one: `shapes` orders the A of a fused product so."""
    rows, columns = views[0].shape
    return views[0].as_strided((rows * len(views), columns), (columns, 1))


def _leaves(masters: Layers, gradients: Layers) -> Layers:
    """What autograd sees of the masters: their gradients go to `flat.grad`."""
    return [
        {name: list(map(_leaf, values, ours[name])) for name, values in products.items()}
        for products, ours in zip(masters, gradients, strict=True)
    ]


def _leaf(value: Tensor, gradient: Tensor) -> Tensor:
    leaf = value.detach().requires_grad_()
    leaf.grad = gradient
    return leaf


def _with_room(weight: Tensor, room: int) -> Tensor:
    return torch.cat((weight, weight.new_zeros(len(weight), room)), dim=1)
