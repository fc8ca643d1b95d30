"""Training and serving on another device, as far as a machine without one can tell: tensors of `meta` have no numbers,
but are on a device that is not the processor, and refuse to be mixed with tensors that are.
"""

import dataclasses
from hashlib import sha256

import pytest
import torch

from milepost.errors import Invalid
from milepost.modeling import device as devices
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import adapter_bytes, load_adapter
from milepost.modeling.base import load_base, load_config
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.modeling.model import CAUSAL
from milepost.modeling.packed import flash_attention, pack, packed_attention
from milepost.modeling.sampling import greedy
from milepost.serving.adapters import Adapters
from milepost.serving.runner import Runner
from milepost.training.batches import collate, losses
from milepost.training.checkpointing import State, optimizer_state, restore
from milepost.training.data import Example
from milepost.training.optimizer import AdamW

LENGTHS = (5, 9, 30, 33)


def moved(value):
    """The same with every tensor on another device."""
    if isinstance(value, torch.Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if dataclasses.is_dataclass(value):
        fields = {field.name: moved(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, tuple | list):
        return type(value)(moved(each) for each in value)
    if isinstance(value, dict):
        return {name: moved(each) for name, each in value.items()}
    return value


@pytest.fixture
def batch():
    return collate(
        [Example(n, [3] * length, bytes([0, *[1] * (length - 1)]), is_cut=False) for n, length in enumerate(LENGTHS)]
    )


@pytest.fixture
def elsewhere(tiny_base, batch):
    """A device that computes nothing: the base and a batch on it, and whatever is made from now on."""
    real = load_base(tiny_base, torch.bfloat16)
    with torch.device("meta"):
        yield moved(real), moved(batch)


def test_what_a_training_step_makes_is_made_there(elsewhere):
    model, batch = elsewhere
    lora = Lora(model, AdapterConfig(8, 16.0, ""), fresh_tensors(model.config, 8, seed=1))
    for linear in (lora.linear, lora.with_dropout(0.1, 3)):
        each, hits = losses(lora.model, linear, batch)
        assert (each.device.type, hits.device.type) == ("meta", "meta")
        each.sum().backward()
    assert lora.flat.grad.device.type == "meta"
    optimizer = AdamW(lora.flat, weight_decay=0.1)
    optimizer.step(1e-3)
    lora.refresh()
    assert {tensor.device.type for tensor in optimizer_state(optimizer, lora).values()} == {"meta"}


def test_a_state_is_put_back_where_training_is(elsewhere):
    model, _ = elsewhere
    lora = Lora(model, AdapterConfig(8, 16.0, ""), fresh_tensors(model.config, 8, seed=1))
    optimizer = AdamW(lora.flat, weight_decay=0.0)
    kept = {name: torch.zeros(tensor.shape, device="cpu") for name, tensor in optimizer_state(optimizer, lora).items()}
    facts = type("Facts", (), {"step": 3, "skipped": 1})
    restore(State(facts, kept), optimizer, lora)
    assert {tensor.device.type for tensor in optimizer.moments.values()} == {"meta"}
    optimizer.step(1e-3)


def test_what_an_engine_makes_is_made_there(elsewhere):
    model, _ = elsewhere
    adapters = Adapters(model, base_hash="", slots=2)
    runner = Runner(model, adapters, rows=4)
    prompt = runner._forward([1, 2, 3], range(3), adapters.linear([None]), runner._cache.prefilling(4, 0, 3))
    step = runner._forward([1] * 4, [3, 0, 0, 0], adapters.linear([None] * 4), runner._cache.decoding([3, 0, 0, 0]))
    assert greedy(runner._head_logits(step)).device.type == "meta"
    assert prompt.device.type == "meta"
    adapters._widen(8)
    mixed = runner._forward([1] * 4, [3, 0, 0, 0], adapters.linear([0, 1, None, 0]), runner._cache.decoding([3] * 4))
    assert mixed.device.type == "meta"


def test_an_adapter_of_some_modules_waits_on_the_processor(tmp_path, tiny_base):
    """Those it lacks are zeros that lie where the others do, or they could not be joined."""
    model = load_config(tiny_base)
    config = AdapterConfig(4, 8.0, "a base", ("down_proj", "q_proj"))
    content = adapter_bytes(fresh_tensors(model, 4, seed=1, targets=config.targets), config)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(content)
    with torch.device("meta"):
        adapter = load_adapter(
            file, sha256=sha256(content).hexdigest(), base_hash="a base", model=model, dtype=torch.bfloat16
        )
    found = {tensor.device.type for side in (adapter.a, adapter.b) for layer in side for tensor in layer.values()}
    assert found == {"cpu"}


def test_a_tensor_left_behind_is_found(elsewhere):
    """So that the tests above can fail."""
    model, batch = elsewhere
    left = dataclasses.replace(batch, labels=torch.zeros(len(batch.labels), dtype=torch.int64, device="cpu"))
    lora = Lora(model, AdapterConfig(8, 16.0, ""), fresh_tensors(model.config, 8, seed=1))
    with pytest.raises(Exception, match="meta"):
        losses(lora.model, lora.linear, left)


@pytest.mark.parametrize("kv_heads", [1, 3])
def test_fused_attention_is_the_same_with_its_gradients(kv_heads):
    generator = torch.Generator().manual_seed(0)
    packed = pack([torch.zeros(length, dtype=torch.int64) for length in (30, 33, 36)])
    rows = len(packed)
    given = [torch.randn(rows, heads, 16, generator=generator) for heads in (3, kv_heads, kv_heads)]
    ours, theirs = ([x.clone().requires_grad_() for x in given] for _ in range(2))
    one = packed_attention(packed)(0, *ours)
    (group,) = packed.groups
    other = flash_attention(group, CAUSAL, *theirs)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    direction = torch.randn(one.shape, generator=generator)
    one.backward(direction)
    other.backward(direction)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without():
    assert devices.use("auto") == torch.device("cpu")
    assert devices.use("cpu") == torch.get_default_device() == torch.device("cpu")
    with pytest.raises(Invalid, match=r"on cuda:1, since MILEPOST_DEVICE says so, but torch .* finds 0 GPUs here"):
        devices.use("cuda:1")
