"""A base model's folder (the layout of the Hugging Face hub) → weights, fused as `llama.FUSED` says.

What the forward pass does not do is refused by name, never approximated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from milepost.errors import Invalid
from milepost.modeling.llama import FUSED, Llama, LlamaConfig

ARCHITECTURE = "LlamaForCausalLM"


def load_base(path: Path, dtype: torch.dtype) -> Llama:
    """Read a base's weights; raises `Invalid` if it is of a kind this forward pass cannot run."""
    config = load_config(path)
    weights = _load_tensors(path, dtype)

    def layers(suffix: str) -> tuple[Tensor, ...]:
        return tuple(weights[f"model.layers.{layer}.{suffix}.weight"] for layer in range(config.layers))

    fused = {name: tuple(layers(part) for part in parts) for name, parts in FUSED.items()}
    embedding = weights["model.embed_tokens.weight"]
    return Llama(
        config=config,
        embedding=embedding,
        linears=tuple(
            {name: torch.cat([part[layer] for part in parts]) for name, parts in fused.items()}
            for layer in range(config.layers)
        ),
        input_norms=layers("input_layernorm"),
        post_norms=layers("post_attention_layernorm"),
        final_norm=weights["model.norm.weight"],
        head=embedding if config.tied_embeddings else weights["lm_head.weight"],
    )


def load_config(path: Path) -> LlamaConfig:
    raw: dict[str, Any] = json.loads((path / "config.json").read_bytes())
    for is_wrong, sentence in REFUSALS:
        if is_wrong(raw):
            raise Invalid(f"The base model in {path} cannot be used: {sentence}", param="model")
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    return LlamaConfig(
        hidden=hidden,
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        intermediate=raw["intermediate_size"],
        vocab=raw["vocab_size"],
        rope_theta=_rope(raw).get("rope_theta") or raw.get("rope_theta") or 10_000.0,
        norm_eps=raw["rms_norm_eps"],
        context_length=raw["max_position_embeddings"],
        tied_embeddings=raw.get("tie_word_embeddings", False),
    )


#: How long dtypes are compared, and how often at least: longer than the turns in which a busy processor is shared out.
MEASURE_S, LEAST_ROUNDS = 0.2, 3


def choose_dtype() -> torch.dtype:
    """The dtype whose matrix products are faster here, by a measurement of some tenths of a second.

    bf16 is 4 times faster than fp32 with AVX512-BF16, and up to 90 times slower on a processor with AVX2 only. They
    take turns, on one thread: three products of each, one after the other and on all threads, chose fp32 on a busy
    machine where bf16 is twice as fast.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    best = {torch.bfloat16: math.inf, torch.float32: math.inf}
    began, rounds = time.perf_counter(), 0
    try:
        while rounds < LEAST_ROUNDS or time.perf_counter() < began + MEASURE_S:
            best = {dtype: min(seconds, _product_seconds(dtype)) for dtype, seconds in best.items()}
            rounds += 1
    finally:
        torch.set_num_threads(before)
    return min(best, key=lambda dtype: best[dtype])


def _rope(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rope's settings under the key of transformers 5, or of 4."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


#: What the forward pass cannot do: a test on config.json, and the sentence that refuses it.
REFUSALS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (
        lambda raw: ARCHITECTURE not in raw.get("architectures", ()),
        f"its architecture is not {ARCHITECTURE}, the only one supported today",
    ),
    (
        lambda raw: _rope(raw).get("rope_type", _rope(raw).get("type", "default")) != "default",
        "it scales its rotary embeddings (rope_scaling), which is not supported yet",
    ),
    (
        lambda raw: bool(raw.get("attention_bias") or raw.get("mlp_bias")),
        "its projections have biases, which are not supported yet",
    ),
    (lambda raw: raw.get("hidden_act", "silu") != "silu", "its activation is not silu"),
    (lambda raw: "quantization_config" in raw, "its weights are quantised; save them dequantised first"),
)


def _load_tensors(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(path.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors.update({name: opened.get_tensor(name).to(dtype) for name in opened.keys()})  # noqa: SIM118 (not a dict)
    if not tensors:
        raise Invalid(f"The base model in {path} has no model.safetensors", param="model")
    return tensors


def _product_seconds(dtype: torch.dtype) -> float:
    """One product of a small layer's shape, warm: where it is slow it costs a tenth of a second."""
    x, weight = torch.ones(128, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    functional.linear(x[:4], weight)
    started = time.perf_counter()
    functional.linear(x, weight)
    return time.perf_counter() - started
