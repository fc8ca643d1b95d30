import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from milepost.errors import Invalid
from milepost.modeling.base import choose_dtype, load_base
from milepost.modeling.model import CAUSAL, Attend, plain_linear


def whole_sequence_attention(groups: int) -> Attend:
    """Causal attention over (batch, time, heads, head_dim), written for clarity."""

    def attend(layer, q, k, v, how=CAUSAL):
        q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(groups, 2), v.repeat_interleave(groups, 2)))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return attend


def test_the_forward_pass_equals_transformers(tiny_base):
    reference = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = load_base(tiny_base, torch.float32)
    tokens = torch.arange(40).view(2, 20) * 6
    config = model.config
    attend = whole_sequence_attention(config.heads // config.kv_heads)
    hidden = model.hidden_states(tokens, torch.arange(20).expand(2, 20), plain_linear(model), attend)
    torch.testing.assert_close(hidden @ model.head.T, reference(tokens).logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": None}, "names no architecture"),
        ({"architectures": ["NewForCausalLM"], "model_type": "new"}, "transformers [0-9.]+ cannot load it"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"vision_config": {}}, "reads images"),
        ({"is_encoder_decoder": True}, "has an encoder"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 8}}, "rotary embeddings change with the longest text"),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope"}}, "rotary embeddings change"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "neither to all tokens before nor"),
        ({"num_hidden_layers": 3, "hidden_act": "gelu"}, "its files lack weights that its architecture has"),
    ],
)
def test_what_cannot_be_computed_exactly_is_refused_by_name(tiny_base, tmp_path, change, words):
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Invalid, match=words):
        load_base(folder, torch.float32)


def test_the_dtype_is_one_of_two_and_threads_stay_as_they_were():
    before = torch.get_num_threads()
    assert choose_dtype() in (torch.float32, torch.bfloat16)
    assert torch.get_num_threads() == before


@pytest.mark.e2e
def test_fp32_is_chosen_where_the_processor_cannot_multiply_bf16():
    """With AVX2 only, a bf16 product takes up to 90 times as long (reference/training.md)."""
    code = "from milepost.modeling.base import choose_dtype; print(choose_dtype())"
    capped = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    assert subprocess.check_output([sys.executable, "-c", code], env=capped, text=True) == "torch.float32\n"
