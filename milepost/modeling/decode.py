"""One token of every running sequence through the Llama family, with the kernels between the products.

Must equal `Llama.hidden_states` over the same cache (a test), but for rounding: here a step's numbers are rounded less
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.cache import Cache
from milepost.modeling.kernels import HEAD_SIZES, Kernels
from milepost.modeling.llama import Llama, with_biases
from milepost.modeling.model import CAUSAL, Linear, Model


def can_decode(model: Model) -> TypeGuard[Llama]:
    """Whether the kernels know this model's numbers and its heads; not those that are normed, or see a window only."""
    return (
        isinstance(model, Llama)
        and model.dtype == torch.bfloat16
        and model.config.head_dim in HEAD_SIZES
        and model.config.attention == CAUSAL
        and not model.head_norms
    )


def decode(
    model: Llama, kernels: Kernels, cache: Cache, *, tokens: Sequence[int], positions: Sequence[int], linear: Linear
) -> Tensor:
    """Final normed hidden states (rows, hidden) of a token in each of the cache's rows 0 … n-1, at these positions."""
    eps = model.config.norm_eps
    at = torch.tensor(positions)
    angles = at.float()[:, None] * model.frequencies
    turn = angles.cos(), angles.sin()
    linear = with_biases(linear, model.biases) if model.biases else linear
    x = functional.embedding(torch.tensor(tokens), model.embedding)
    h = kernels.add_norm(x, None, model.input_norms[0], eps)
    for layer, next_norm in enumerate((*model.input_norms[1:], model.final_norm)):
        qkv = linear(layer, "qkv", h)
        attended = kernels.attend(qkv, turn, at, cache.keys[layer], cache.values[layer])
        h = kernels.add_norm(x, linear(layer, "o", attended), model.post_norms[layer], eps)
        inner = kernels.silu_product(linear(layer, "gate_up", h))
        h = kernels.add_norm(x, linear(layer, "down", inner), next_norm, eps)
    return h
