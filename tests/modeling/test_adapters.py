import hashlib
import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.errors import Corrupt, Invalid
from milepost.modeling import adapters
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import adapted_linear, load_adapter
from milepost.modeling.base import load_base, load_config
from tests.modeling.test_base import whole_sequence_attention

CONFIG = AdapterConfig(rank=4, alpha=8.0, base_hash="b" * 64)


@pytest.fixture
def adapter_folder(tiny_base, tmp_path):
    """A random adapter for the tiny base, saved as a checkpoint is."""
    generator = torch.Generator().manual_seed(1)
    shapes = adapters.shapes(load_config(tiny_base), CONFIG.rank)
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes}
    (tmp_path / "adapter_model.safetensors").write_bytes(adapters.adapter_bytes(tensors, CONFIG))
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapters.peft_config(CONFIG, str(tiny_base))))
    return tmp_path


def weights_of(folder):
    file = folder / "adapter_model.safetensors"
    return file, hashlib.sha256(file.read_bytes()).hexdigest()


def test_peft_loads_our_adapter_and_computes_the_same(tiny_base, adapter_folder):
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(base, adapter_folder)
    file, sha256 = weights_of(adapter_folder)
    model = load_base(tiny_base, torch.float32)
    adapter = load_adapter(
        file, sha256=sha256, base_hash=CONFIG.base_hash, model=load_config(tiny_base), dtype=torch.float32
    )
    tokens = torch.arange(20).view(1, 20) * 7
    hidden = model.hidden_states(tokens, torch.arange(20), adapted_linear(model, adapter), whole_sequence_attention(2))
    torch.testing.assert_close(hidden @ model.head.T, reference(tokens).logits, atol=5e-5, rtol=0)


def test_the_same_tensors_give_the_same_bytes(adapter_folder):
    file, _ = weights_of(adapter_folder)
    content = file.read_bytes()
    _, tensors = adapters.read_adapter(file, sha256=hashlib.sha256(content).hexdigest(), base_hash=CONFIG.base_hash)
    assert adapters.adapter_bytes(tensors, CONFIG) == content


def test_changed_bytes_are_refused(adapter_folder, tiny_base):
    file, sha256 = weights_of(adapter_folder)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(Corrupt, match="its bytes were changed"):
        load_adapter(file, sha256=sha256, base_hash=CONFIG.base_hash, model=load_config(tiny_base), dtype=torch.float32)


def test_a_deleted_adapter_is_an_error_not_the_base(adapter_folder, tiny_base):
    file, sha256 = weights_of(adapter_folder)
    file.unlink()
    with pytest.raises(Corrupt, match="is not there"):
        load_adapter(file, sha256=sha256, base_hash=CONFIG.base_hash, model=load_config(tiny_base), dtype=torch.float32)


def test_an_adapter_of_another_base_is_refused(adapter_folder, tiny_base):
    file, sha256 = weights_of(adapter_folder)
    with pytest.raises(Invalid, match="was trained on a base with hash bbbb"):
        load_adapter(file, sha256=sha256, base_hash="c" * 64, model=load_config(tiny_base), dtype=torch.float32)
