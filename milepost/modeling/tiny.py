"""`tiny-random-llama`: a chat model that knows nothing, made on the spot, the same bytes everywhere.

Bytes are its tokens, so any text works; whole jobs run in seconds, in tests and trials.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SEED = 20_260_101

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 257,
    "eos_token_id": 258,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 160,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 256,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "vocab_size": 260,
}

#: Ids 256 … 258, after the 256 bytes.
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_tiny(draft: Path, on_progress: Callable[[int, int, str], None]) -> None:
    on_progress(0, 0, "making a tiny random model")
    safetensors.torch.save_file(_weights(), draft / "model.safetensors", metadata={"format": "pt"})
    _tokenizer().save(str(draft / "tokenizer.json"))
    settings = {
        "bos_token": SPECIALS[1],
        "eos_token": SPECIALS[2],
        "pad_token": SPECIALS[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("config.json", CONFIG), ("tokenizer_config.json", settings)):
        (draft / name).write_text(json.dumps(content, sort_keys=True, indent=2), encoding="utf-8")
    (draft / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _weights() -> dict[str, torch.Tensor]:
    """Scaled as a trained model's are, so that training moves them within a few steps."""
    generator = torch.Generator().manual_seed(SEED)
    hidden, inner, vocab = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    q, kv = CONFIG["num_attention_heads"] * CONFIG["head_dim"], CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    shapes = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    weights = {"model.embed_tokens.weight": torch.randn(vocab, hidden, generator=generator) * 0.25}
    for layer in range(CONFIG["num_hidden_layers"]):
        for name, (outputs, inputs) in shapes.items():
            drawn = torch.randn(outputs, inputs, generator=generator)
            weights[f"model.layers.{layer}.{name}.weight"] = drawn * inputs**-0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(hidden)
    weights["model.norm.weight"] = torch.ones(hidden)
    return weights


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return tokenizer
