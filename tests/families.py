"""Tiny random bases of many families, made by transformers from a configuration, with the tokenizer of
`tiny-random-llama`. Nothing about their weights is zero or one, so that nothing left out goes unseen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

#: Sizes that all have, under the names that most configurations know them by.
SIZES = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "pad_token_id": 256,
    "initializer_range": 0.15,
    "tie_word_embeddings": False,
}
WINDOW = 8
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
#: Two kinds of layers, in a pattern that does not end evenly.
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

#: Families with a pass of their own: (transformers' configuration, what is said beside SIZES).
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3": ("LlamaConfig", {"rope_parameters": LLAMA3, "head_dim": 32}),
    "llama-linear": ("LlamaConfig", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e3}}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW, "head_dim": 16}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 32, "tie_word_embeddings": True}),
}
#: Those that run by transformers' code.
GENERIC: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-yarn": ("LlamaConfig", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
    "qwen2-window": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "gemma": ("GemmaConfig", {"head_dim": 32, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 32,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "sliding_window": WINDOW,
            "layer_types": MIXED,
            "query_pre_attn_scalar": 24,
        },
    ),
    "smollm3": ("SmolLM3Config", {"no_rope_layers": [1, 0, 1]}),
    "olmo2": ("Olmo2Config", {}),
    "gpt-neox": ("GPTNeoXConfig", {"num_key_value_heads": None}),
    "phi": ("PhiConfig", {"partial_rotary_factor": 0.5}),
    "starcoder2": ("Starcoder2Config", {"sliding_window": WINDOW, "use_bias": True}),
    "granite": ("GraniteConfig", {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
}
FAMILIES = OWN | GENERIC


def make_base(folder: Path, configuration: str, said: dict[str, Any]) -> None:
    """Files of a base, as a repository of the hub has them."""
    import transformers

    from milepost.modeling.tiny import make_tiny

    make_tiny(folder, lambda *_: None)
    config = getattr(transformers, configuration)(**SIZES | said)
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
    model.save_pretrained(folder)
