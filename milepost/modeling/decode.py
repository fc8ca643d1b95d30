"""One token of every running sequence through the Llama family, with the kernels between the products.

Must equal `llama.hidden_states` over the same cache (a test), but for rounding: here a step's numbers are rounded less
often.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from milepost.modeling.cache import Cache
from milepost.modeling.kernels import HEAD_SIZES, Kernels
from milepost.modeling.llama import Linear, Llama, rotary


def can_decode(model: Llama) -> bool:
    """Whether the kernels know this model's numbers and the size of its heads."""
    return model.dtype == torch.bfloat16 and model.config.head_dim in HEAD_SIZES


def decode(
    model: Llama, kernels: Kernels, cache: Cache, *, tokens: Sequence[int], positions: Sequence[int], linear: Linear
) -> Tensor:
    """Final normed hidden states (rows, hidden) of a token in each of the cache's rows 0 … n-1, at these positions."""
    config, eps = model.config, model.config.norm_eps
    at = torch.tensor(positions)
    half = config.head_dim // 2
    cos, sin = (each[:, 0, :half].contiguous() for each in rotary(config, at, torch.float32))
    x = functional.embedding(torch.tensor(tokens), model.embedding)
    h = kernels.add_norm(x, None, model.input_norms[0], eps)
    for layer, next_norm in enumerate((*model.input_norms[1:], model.final_norm)):
        qkv = linear(layer, "qkv", h)
        attended = kernels.attend(qkv, (cos, sin), at, cache.keys[layer], cache.values[layer])
        h = kernels.add_norm(x, linear(layer, "o", attended), model.post_norms[layer], eps)
        inner = kernels.silu_product(linear(layer, "gate_up", h))
        h = kernels.add_norm(x, linear(layer, "down", inner), next_norm, eps)
    return h
