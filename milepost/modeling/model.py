"""What training and serving know of a base, whatever its architecture: sizes, frozen weights, one forward pass.

Two kinds of models are behind it: `llama` writes the pass out for its family, `generic` runs transformers' own code.
What differs between training and serving is passed in: `linear` (plain, or with adapters) and `attend` (whole
sequences, or a cache).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a layer. `parts` are the modules it fuses, by their full names in transformers' model, and the
    features each of them makes, in order.
    """

    inputs: int
    parts: Mapping[str, int]

    @property
    def outputs(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Attention:
    """How a layer attends. Scores are times `scale` (None: 1/√head_dim), then `softcap · tanh(score / softcap)`; a
    token sees the last `window` tokens, itself among them.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


#: All tokens before, scores by 1/√head_dim: of most families.
CAUSAL = Attention()


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of hidden states' products with the head, where a family does more than multiply: `bias`, then
    times `scale`, then `softcap · tanh(logit / softcap)`.
    """

    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, products: Tensor) -> Tensor:
        """Logits (rows, vocab) in fp32 of products in fp32."""
        logits = products if self.bias is None else products + self.bias.float()
        logits = logits * self.scale
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap

    def back(self, d_logits: Tensor, logits: Tensor) -> Tensor:
        """The gradient of the products."""
        slope = 1.0 if self.softcap is None else 1 - (logits / self.softcap).square()
        return d_logits * slope * self.scale


def finished(products: Tensor, finish: Finish | None) -> Tensor:
    """Logits of products with the head, in fp32, of a model that finishes them so, or not at all."""
    return products if finish is None else finish(products)


class Config(Protocol):
    """The sizes of a base that its cache and its adapters depend on."""

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    def products(self, layer: int) -> Mapping[str, Product]: ...


class Linear(Protocol):
    """`x` (rows, in) → (rows, out) for one of a layer's products, without its bias; where adapters live."""

    def __call__(self, layer: int, name: str, x: Tensor) -> Tensor: ...


class Attend(Protocol):
    """q (rows, heads, head_dim), k and v (rows, kv_heads, head_dim), rotated already → (rows, heads, head_dim)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, how: Attention = CAUSAL) -> Tensor: ...


class Model(Protocol):
    """Frozen base weights. `linears[layer][name]` is (out, in) of the product of that name, `head` (vocab, hidden)."""

    @property
    def config(self) -> Config: ...
    @property
    def linears(self) -> tuple[dict[str, Tensor], ...]: ...
    @property
    def head(self) -> Tensor: ...
    @property
    def finish(self) -> Finish | None: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def libraries(self) -> tuple[str, ...]:
        """Whose code it runs beside ours and torch's: its bits depend on their versions."""
        ...

    def hidden_states(self, tokens: Tensor, positions: Tensor, linear: Linear, attend: Attend) -> Tensor:
        """Final normed hidden states (rows, hidden) of `tokens` (rows,) at `positions` (rows,)."""
        ...

    def with_linears(self, linears: tuple[dict[str, Tensor], ...]) -> Self:
        """The same model, whose products' weights lie elsewhere."""
        ...


def plain_linear(model: Model) -> Linear:
    """The base alone, without adapters."""

    def linear(layer: int, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, model.linears[layer][name])

    return linear
