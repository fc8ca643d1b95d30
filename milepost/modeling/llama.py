"""The Llama family's forward pass, written once for training and serving.

What differs between the two is passed in: `linear` (plain, or with adapters) and `attend` (whole sequences, or a
cache). Projections that share an input are fused: q, k and v are one product, gate and up another. Leading shapes are
free: training passes (batch, time), serving (rows,). Must equal transformers' LlamaForCausalLM (a test).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

#: The four products of a layer, and the PEFT module names each fuses, in order of their output features.
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
    rope_theta: float
    norm_eps: float
    context_length: int
    tied_embeddings: bool

    def features(self, name: str) -> tuple[int, tuple[int, ...]]:
        """(input features, output features of each fused part) of one of the FUSED products."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "qkv": (self.hidden, (q, kv, kv)),
            "o": (q, (self.hidden,)),
            "gate_up": (self.hidden, (self.intermediate, self.intermediate)),
            "down": (self.intermediate, (self.hidden,)),
        }[name]


@dataclass(frozen=True, slots=True)
class Llama:
    """Frozen base weights. `linears[layer][name]` is (out, in), fused as FUSED says; `head` is `embedding` if tied."""

    config: LlamaConfig
    embedding: Tensor  # (vocab, hidden)
    linears: tuple[dict[str, Tensor], ...]
    input_norms: tuple[Tensor, ...]  # (hidden,) each
    post_norms: tuple[Tensor, ...]
    final_norm: Tensor
    head: Tensor  # (vocab, hidden)

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype


class Linear(Protocol):
    """`x` (…, in) → (…, out) for one of the FUSED products of a layer; where adapters live."""

    def __call__(self, layer: int, name: str, x: Tensor) -> Tensor: ...


class Attend(Protocol):
    """q (…, heads, head_dim), k and v (…, kv_heads, head_dim), rotated already → (…, heads, head_dim)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def hidden_states(model: Llama, tokens: Tensor, positions: Tensor, linear: Linear, attend: Attend) -> Tensor:
    """Final normed hidden states (…, hidden) of `tokens` (…) at `positions` (…)."""
    config = model.config
    q_size, kv_size = config.heads * config.head_dim, config.kv_heads * config.head_dim
    cos, sin = rotary(config, positions, model.dtype)
    x = functional.embedding(tokens, model.embedding)
    for layer in range(config.layers):
        h = rms_norm(x, model.input_norms[layer], config.norm_eps)
        q, k, v = linear(layer, "qkv", h).split([q_size, kv_size, kv_size], dim=-1)
        q = rotate(q.unflatten(-1, (config.heads, config.head_dim)), cos, sin)
        k = rotate(k.unflatten(-1, (config.kv_heads, config.head_dim)), cos, sin)
        v = v.unflatten(-1, (config.kv_heads, config.head_dim))
        x = x + linear(layer, "o", attend(layer, q, k, v).flatten(-2))
        h = rms_norm(x, model.post_norms[layer], config.norm_eps)
        gate, up = linear(layer, "gate_up", h).chunk(2, dim=-1)
        x = x + linear(layer, "down", functional.silu(gate) * up)
    return rms_norm(x, model.final_norm, config.norm_eps)


def plain_linear(model: Llama) -> Linear:
    """The base alone, without adapters."""

    def linear(layer: int, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, model.linears[layer][name])

    return linear


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In fp32 whatever comes in, as transformers does it (arXiv:1910.07467)."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rotary(config: LlamaConfig, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cos and sin (…, 1, head_dim) of rotary position embeddings, half-split layout (arXiv:2104.09864)."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    angles = positions.float().unsqueeze(-1) * (1.0 / config.rope_theta**exponents)
    angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the halves of each head of `x` (…, heads, head_dim) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
