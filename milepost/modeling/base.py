"""A base model's folder (the layout of the Hugging Face hub) → a model: the Llama family's own pass, or transformers'.

What neither computes exactly is refused by name, never approximated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from milepost.errors import Invalid
from milepost.modeling.llama import FUSED, Llama, LlamaConfig
from milepost.modeling.model import Attention, Model

#: config.json as it is.
Raw = Mapping[str, Any]


def load_base(path: Path, dtype: torch.dtype) -> Model:
    """Read a base's weights; raises `Invalid` if it is of a kind that cannot be run exactly."""
    raw = read_config(path)
    if has_own_pass(raw):
        return _load_llama(path, raw, dtype)
    from milepost.modeling.generic import load_generic  # transformers: seconds, for other families only

    return load_generic(path, raw, dtype)


def read_config(path: Path) -> Raw:
    raw: dict[str, Any] = json.loads((path / "config.json").read_bytes())
    for is_wrong, sentence in REFUSALS:
        if is_wrong(raw):
            raise Invalid(f"The base model in {path} cannot be used: {sentence}", param="model")
    return raw


def architecture(raw: Raw) -> str:
    """The class of transformers that computes it."""
    return str((raw.get("architectures") or ["unknown"])[0])


def has_own_pass(raw: Raw) -> bool:
    """Whether `llama` computes it: a family it knows, with nothing in its configuration that it does not."""
    return architecture(raw) in BIASED and all(is_so(raw) for is_so in OWN)


def load_config(path: Path) -> LlamaConfig:
    """Of a base that has its own pass."""
    return _llama_config(read_config(path))


# ------------------------------------------------------------------------------------------------ the Llama family

ATTENTION = (*FUSED["qkv"], *FUSED["o"])
MLP = (*FUSED["gate_up"], *FUSED["down"])

#: The families, and the modules of a layer that have a bias.
BIASED: Mapping[str, Callable[[Raw], tuple[str, ...]]] = {
    "LlamaForCausalLM": lambda raw: (
        (ATTENTION if raw.get("attention_bias") else ()) + (MLP if raw.get("mlp_bias") else ())
    ),
    "MistralForCausalLM": lambda raw: (),  # noqa: ARG005
    "Qwen2ForCausalLM": lambda raw: FUSED["qkv"],  # noqa: ARG005
    "Qwen3ForCausalLM": lambda raw: ATTENTION if raw.get("attention_bias") else (),
}
#: Those that norm the heads of q and k.
HEAD_NORMS = {"Qwen3ForCausalLM"}

#: What each family has another default for: one that does not say them is left to transformers.
SAID = ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "intermediate_size")

#: What must hold of a configuration for the family's own pass to be its model.
OWN: tuple[Callable[[Raw], bool], ...] = (
    lambda raw: architecture(raw) == "LlamaForCausalLM" or (all(name in raw for name in SAID) and bool(_theta(raw))),
    lambda raw: not _norms_heads(raw) or "head_dim" in raw,
    lambda raw: _rope_type(raw) in SCALINGS and SCALINGS[_rope_type(raw)].settings <= set(_rope(raw)),
    lambda raw: raw.get("hidden_act", "silu") == "silu",
    lambda raw: _rope(raw).get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0)) == 1.0,
    lambda raw: not raw.get("use_sliding_window"),  # of Qwen's: in some of its layers
    lambda raw: set(raw.get("layer_types") or ()) <= {"full_attention"} or architecture(raw) == "MistralForCausalLM",
)


def _llama_config(raw: Raw) -> LlamaConfig:
    heads, hidden = raw["num_attention_heads"], raw["hidden_size"]
    has_window = architecture(raw) == "MistralForCausalLM"
    return LlamaConfig(
        hidden=hidden,
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        intermediate=raw["intermediate_size"],
        vocab=raw["vocab_size"],
        norm_eps=raw["rms_norm_eps"],
        context_length=raw["max_position_embeddings"],
        tied_embeddings=raw.get("tie_word_embeddings", False),
        attention=Attention(window=raw.get("sliding_window") if has_window else None),
    )


def _load_llama(path: Path, raw: Raw, dtype: torch.dtype) -> Llama:
    config, weights = _llama_config(raw), _load_tensors(path, dtype)

    def layers(name: str) -> tuple[Tensor, ...]:
        return tuple(weights[f"model.layers.{layer}.{name}"] for layer in range(config.layers))

    fused = {name: tuple(layers(f"{part}.weight") for part in parts) for name, parts in FUSED.items()}
    embedding = weights["model.embed_tokens.weight"]
    norms = (layers("self_attn.q_norm.weight"), layers("self_attn.k_norm.weight")) if _norms_heads(raw) else ()
    return Llama(
        config=config,
        frequencies=rotary_frequencies(raw, config.head_dim),
        embedding=embedding,
        linears=tuple(
            {name: torch.cat([part[layer] for part in parts]) for name, parts in fused.items()}
            for layer in range(config.layers)
        ),
        input_norms=layers("input_layernorm.weight"),
        post_norms=layers("post_attention_layernorm.weight"),
        final_norm=weights["model.norm.weight"],
        head=embedding if config.tied_embeddings else weights["lm_head.weight"],
        biases=_biases(config, BIASED[architecture(raw)](raw), layers),
        head_norms=tuple(zip(*norms, strict=True)),
    )


def _norms_heads(raw: Raw) -> bool:
    return architecture(raw) in HEAD_NORMS


def _biases(
    config: LlamaConfig, biased: tuple[str, ...], layers: Callable[[str], tuple[Tensor, ...]]
) -> tuple[dict[str, Tensor], ...]:
    """Of the products that fuse modules with a bias: all of a product's have one, or none."""
    found = {name: [layers(f"{part}.bias") for part in parts] for name, parts in FUSED.items() if parts[0] in biased}
    if not found:
        return ()
    return tuple(
        {name: torch.cat([part[layer] for part in parts]) for name, parts in found.items()}
        for layer in range(config.layers)
    )


# ------------------------------------------------------------------------------------------------ rotary embeddings


def rotary_frequencies(raw: Raw, head_dim: int) -> Tensor:
    """Radians that one position turns each pair of a head's features, (head_dim / 2,) in fp32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / torch.pow(_theta(raw) or 10_000.0, exponents)
    return SCALINGS[_rope_type(raw)].compute(plain, _rope(raw))


def _llama3(plain: Tensor, rope: Raw) -> Tensor:
    """Llama 3.1's, by how many waves fit into the context it was trained with: where few do, they are stretched, where
    many do, kept, and blended between.
    """
    waves: Tensor = plain * rope["original_max_position_embeddings"] / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept: Tensor = ((waves - low) / (high - low)).clamp(0, 1)
    stretched: Tensor = plain / rope["factor"]
    return kept * plain + (1 - kept) * stretched


class Scaling(NamedTuple):
    """How frequencies are scaled, and what its settings must say."""

    compute: Callable[[Tensor, Raw], Tensor]
    settings: AbstractSet[str]


#: The scalings of rotary embeddings that are computed here.
SCALINGS: Mapping[str, Scaling] = {
    "default": Scaling(lambda plain, rope: plain, frozenset()),  # noqa: ARG005
    "linear": Scaling(lambda plain, rope: plain / rope["factor"], {"factor"}),
    "llama3": Scaling(_llama3, {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
}


def _theta(raw: Raw) -> float | None:
    return _rope(raw).get("rope_theta") or raw.get("rope_theta")


def _rope(raw: Raw) -> Raw:
    """Rope's settings under the key of transformers 5, or of 4."""
    return raw.get("rope_parameters") or raw.get("rope_scaling") or {}


def _rope_type(raw: Raw) -> str:
    return str(_rope(raw).get("rope_type", _rope(raw).get("type", "default")))


def _rope_types(raw: Raw) -> set[str]:
    """Of all kinds of layers: some families have settings for each."""
    kinds = [each for each in _rope(raw).values() if isinstance(each, Mapping)]
    return {str(each.get("rope_type", "default")) for each in kinds} | {_rope_type(raw)}


#: What no pass does exactly: a test on config.json, and the sentence that refuses it.
REFUSALS: tuple[tuple[Callable[[Raw], bool], str], ...] = (
    (lambda raw: not raw.get("architectures"), "its config.json names no architecture"),
    (lambda raw: "quantization_config" in raw, "its weights are quantised; save them dequantised first"),
    (
        lambda raw: any(key in raw for key in ("vision_config", "audio_config")),
        "it reads images or sounds too; save its language model alone, as a causal language model",
    ),
    (lambda raw: bool(raw.get("is_encoder_decoder")), "it is no causal language model, but has an encoder"),
    (
        lambda raw: bool(_rope_types(raw) & {"dynamic", "longrope"}),
        (
            "its rotary embeddings change with the longest text of a batch (rope_type dynamic or longrope), so that an "
            "answer would depend on who else is answered"
        ),
    ),
    (
        lambda raw: not set(raw.get("layer_types") or ()) <= {"full_attention", "sliding_attention"},
        "some of its layers attend neither to all tokens before nor in a sliding window (layer_types)",
    ),
)


# ------------------------------------------------------------------------------------------------ weights


class _Weights(dict[str, Tensor]):
    """By name; one that is not there is refused."""

    def __missing__(self, name: str) -> Tensor:
        raise Invalid(
            f"The base model cannot be used: its files lack weights that its architecture has, {name} among them"
        )


def _load_tensors(path: Path, dtype: torch.dtype) -> _Weights:
    tensors = _Weights()
    for file in sorted(path.glob("model*.safetensors")):
        with safe_open(file, framework="pt", device=str(torch.get_default_device())) as opened:
            tensors.update({name: opened.get_tensor(name).to(dtype) for name in opened.keys()})  # noqa: SIM118 (not a dict)
    if not tensors:
        raise Invalid(f"The base model in {path} has no model.safetensors", param="model")
    return tensors


# ------------------------------------------------------------------------------------------------ dtype

#: How often dtypes are compared at least, and for how long at most.
LEAST_ROUNDS, MEASURE_S = 3, 0.2
#: What is so many times faster in its best product is not looked at any longer.
CLEARLY = 1.5


def choose_dtype() -> torch.dtype:
    """The dtype whose matrix products are faster here, by a measurement of a tenth of a second or two.

    bf16 is 4 times faster than fp32 with AVX512-BF16, and up to 90 times slower on a processor with AVX2 only. They
    take turns, on one thread, and its own time is what counts: by the clock, a busy machine chose fp32 once in thirty
    times where bf16 is twice as fast, and a job's losses were not those of the same job a minute before.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        products = {dtype: _warm_product(dtype) for dtype in (torch.bfloat16, torch.float32)}
        best = dict.fromkeys(products, math.inf)
        began, rounds = time.perf_counter(), 0
        while rounds < LEAST_ROUNDS or not (_is_clear(best) or time.perf_counter() > began + MEASURE_S):
            best = {dtype: min(best[dtype], _own_seconds(product)) for dtype, product in products.items()}
            rounds += 1
    finally:
        torch.set_num_threads(before)
    return min(best, key=lambda dtype: best[dtype])


def _is_clear(best: Mapping[torch.dtype, float]) -> bool:
    return max(best.values()) > CLEARLY * min(best.values())


def _warm_product(dtype: torch.dtype) -> Callable[[], Tensor]:
    """A product of a small layer's shape; where it is slow it costs a tenth of a second."""
    x, weight = torch.ones(128, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)
    functional.linear(x, weight)
    return lambda: functional.linear(x, weight)


def _own_seconds(product: Callable[[], Tensor]) -> float:
    """Processor time of this thread: what others take of the processor in between does not count."""
    began = time.thread_time()
    product()
    return time.thread_time() - began
