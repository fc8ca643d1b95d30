"""The Llama family's forward pass, written once for training and serving: Llama, Mistral, Qwen 2 and Qwen 3.

Projections that share an input are fused: q, k and v are one product, gate and up another. Leading shapes are free:
training and serving pass (rows,). What a family has beside Llama's is empty in the others' weights. Must equal
transformers' model of each family (tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.between import gated, rms_norm, rotary, rotate
from milepost.modeling.model import Attend, Attention, Finish, Linear, Product

#: The four products of a layer, and the modules each fuses, in order of their output features.
FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    norm_eps: float
    context_length: int
    tied_embeddings: bool
    attention: Attention

    def features(self, name: str) -> tuple[int, tuple[int, ...]]:
        """(input features, output features of each fused part) of one of the FUSED products."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (self.hidden, (q, kv, kv)),
            "o": (q, (self.hidden,)),
            "gate_up": (self.hidden, (self.intermediate, self.intermediate)),
            "down": (self.intermediate, (self.hidden,)),
        }[name]

    def products(self, layer: int) -> Mapping[str, Product]:
        found = {}
        for name, parts in FUSED.items():
            inputs, outputs = self.features(name)
            modules = (f"model.layers.{layer}.{part}" for part in parts)
            found[name] = Product(inputs, dict(zip(modules, outputs, strict=True)))
        return found


@dataclass(frozen=True, slots=True)
class Llama:
    """Frozen base weights. `linears[layer][name]` is (out, in), fused as FUSED says; `head` is `embedding` if tied."""

    config: LlamaConfig
    frequencies: Tensor  # (head_dim / 2,): rotary angles of a position, in fp32
    embedding: Tensor  # (vocab, hidden)
    linears: tuple[dict[str, Tensor], ...]
    input_norms: tuple[Tensor, ...]  # (hidden,) each
    post_norms: tuple[Tensor, ...]
    final_norm: Tensor
    head: Tensor  # (vocab, hidden)
    biases: tuple[dict[str, Tensor], ...] = ()  # Qwen 2: of the products that have one, (out,)
    head_norms: tuple[tuple[Tensor, Tensor], ...] = ()  # Qwen 3: of each layer's q and k, (head_dim,)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def finish(self) -> Finish | None:
        return None

    @property
    def libraries(self) -> tuple[str, ...]:
        return ()

    def with_linears(self, linears: tuple[dict[str, Tensor], ...]) -> Llama:
        return replace(self, linears=linears)

    def hidden_states(self, tokens: Tensor, positions: Tensor, linear: Linear, attend: Attend) -> Tensor:
        """Final normed hidden states (…, hidden) of `tokens` (…) at `positions` (…)."""
        config, eps = self.config, self.config.norm_eps
        linear = with_biases(linear, self.biases) if self.biases else linear
        heads = [config.heads, config.kv_heads, config.kv_heads]
        cos, sin = rotary(self.frequencies, positions, self.dtype)
        x = functional.embedding(tokens, self.embedding)
        for layer in range(config.layers):
            h = rms_norm(x, self.input_norms[layer], eps)
            qkv = linear(layer, "qkv", h).unflatten(-1, (-1, config.head_dim))
            if self.head_norms:
                q, k, v = qkv.split(heads, dim=-2)
                q_norm, k_norm = self.head_norms[layer]
                q, k = rotate(rms_norm(q, q_norm, eps), cos, sin), rotate(rms_norm(k, k_norm, eps), cos, sin)
            else:
                turned, v = qkv.split([config.heads + config.kv_heads, config.kv_heads], dim=-2)
                q, k = rotate(turned, cos, sin).split(heads[:2], dim=-2)
            attended = attend(layer, q, k, v, config.attention)
            x = x + linear(layer, "o", attended.flatten(-2))
            h = rms_norm(x, self.post_norms[layer], eps)
            x = x + linear(layer, "down", gated(linear(layer, "gate_up", h)))
        return rms_norm(x, self.final_norm, eps)


def with_biases(linear: Linear, biases: tuple[dict[str, Tensor], ...]) -> Linear:
    """The products, each with its bias if it has one."""

    def biased(layer: int, name: str, x: Tensor) -> Tensor:
        y, bias = linear(layer, name, x), biases[layer].get(name)
        return y if bias is None else y + bias

    return biased
