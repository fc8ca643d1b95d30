"""Bases of other families than Llama's compute what transformers and peft compute, alone and in any company."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from milepost.errors import Invalid
from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import adapter_bytes, all_targets, peft_config, shapes
from milepost.modeling.base import load_base
from milepost.modeling.cache import Cache
from milepost.modeling.export import export_merged
from milepost.modeling.folders import file_hash
from milepost.modeling.generic import Generic
from milepost.modeling.label_loss import label_losses
from milepost.modeling.llama import Llama
from milepost.modeling.lora import Lora
from milepost.modeling.model import plain_linear
from milepost.modeling.packed import pack, packed_attention
from milepost.modeling.pull import pull
from milepost.resources.models import Base
from milepost.resources.runs import Source
from tests.families import FAMILIES, GENERIC, OWN, SIZES, make_base

#: Longer than the windows of those that have one; the last is a group of its own.
LENGTHS = (5, 9, 10, 60)


def sequences():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 256, (length,), generator=generator) for length in LENGTHS]


def reference(folder):
    """transformers' model with its own plain attention."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def logits(model, hidden):
    products = hidden @ model.head.T
    return products if model.finish is None else model.finish(products)


def adapter(folder, model, out):
    """A random adapter of all linear modules, as a checkpoint has it."""
    card = Base.model_validate_json((folder / "base.json").read_bytes())
    config = AdapterConfig(rank=4, alpha=8.0, base_hash=card.hash, targets=card.targets)
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes(model.config, 4)}
    (out / "adapter_model.safetensors").write_bytes(adapter_bytes(tensors, config))
    (out / "adapter_config.json").write_text(json.dumps(peft_config(config, str(folder))))
    return config, tensors


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_its_own_pass_or_transformers_code(family, name):
    assert type(load_base(family(name), torch.float32)) is (Llama if name in OWN else Generic)


@pytest.mark.parametrize("name", FAMILIES)
def test_packed_texts_have_the_logits_that_transformers_gives_each_alone(family, name):
    model, theirs = load_base(family(name), torch.float32), reference(family(name))
    packed = pack(sequences())
    with torch.no_grad():
        hidden = model.hidden_states(packed.tokens, packed.positions, plain_linear(model), packed_attention(packed))
        expected = torch.cat([theirs(one[None]).logits[0] for one in sequences()])
    torch.testing.assert_close(logits(model, hidden), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_texts_read_beside_each_other_from_the_cache_have_the_same_logits(family, name):
    model, theirs = load_base(family(name), torch.float32), reference(family(name))
    linear, cache = plain_linear(model), Cache(model.config, rows=2, dtype=torch.float32)
    text = sequences()[-1]
    with torch.no_grad():
        for row, count in enumerate((40, 3)):
            model.hidden_states(text[:count], torch.arange(count), linear, cache.prefilling(row, 0, count))
        steps = [
            model.hidden_states(
                text[[40 + i, 3 + i]], torch.tensor([40 + i, 3 + i]), linear, cache.decoding([40 + i, 3 + i])
            )
            for i in range(20)
        ]
        expected = theirs(text[None]).logits[0]
    found = logits(model, torch.stack(steps, dim=1))
    torch.testing.assert_close(found, torch.stack([expected[40:60], expected[3:23]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_losses_and_gradients_equal_those_of_peft(family, tmp_path, name):
    model = load_base(family(name), torch.float32)
    config, tensors = adapter(family(name), model, tmp_path)
    lora = Lora(model, config, tensors)
    packed = pack([one[:-1] for one in sequences()])
    hidden = lora.model.hidden_states(packed.tokens, packed.positions, lora.linear, packed_attention(packed))
    losses, _ = label_losses(hidden, model.head, torch.cat([one[1:] for one in sequences()]), model.finish)
    ours = losses.sum() / len(packed)
    ours.backward()

    peft = PeftModel.from_pretrained(reference(family(name)), tmp_path, is_trainable=True).eval()
    named = {key.replace(".default", ""): value for key, value in peft.named_parameters() if value.requires_grad}
    assert named.keys() == tensors.keys()
    every = [
        torch.nn.functional.cross_entropy(peft(one[None]).logits[0, :-1], one[1:], reduction="sum")
        for one in sequences()
    ]
    theirs = sum(every) / len(packed)
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    parts = lora.flat.grad.split([tensor.numel() for tensor in lora.tensors.values()])
    for key, part in zip(lora.tensors, parts, strict=True):
        torch.testing.assert_close(part.view_as(named[key]), named[key].grad, atol=5e-6, rtol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_model_is_loaded_by_transformers_and_computes_what_peft_does(family, tmp_path, name):
    folder, out = family(name), tmp_path / "merged"
    adapter(folder, load_base(folder, torch.float32), tmp_path)
    base = Base.model_validate_json((folder / "base.json").read_bytes())
    tuned = Source(name="ft:x", path=str(tmp_path), hash=file_hash(tmp_path / "adapter_model.safetensors"))
    export_merged(tuned, Source(name=base.name, path=str(folder), hash=base.hash), out)
    merged, peft, text = reference(out), PeftModel.from_pretrained(reference(folder), tmp_path), sequences()[-1][None]
    with torch.no_grad():
        torch.testing.assert_close(merged(text).logits, peft(text).logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("qwen3", ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")),
        ("gpt-neox", ("dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value")),
        ("phi", ("dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj")),
    ],
)
def test_the_card_names_the_modules_that_can_be_adapted(family, name, targets):
    card = Base.model_validate_json((family(name) / "base.json").read_bytes())
    assert card.targets == targets == all_targets(load_base(family(name), torch.float32).config)


def test_a_target_that_the_base_does_not_have_is_refused(family):
    from milepost.modeling.lora import fresh_tensors

    model = load_base(family("gpt-neox"), torch.float32)
    with pytest.raises(
        Invalid, match=r"lora_targets names q_proj, which this base does not have\. Its linear modules: "
    ):
        fresh_tensors(model.config, 4, 1, ("dense", "q_proj"))


#: What is refused when it is pulled: (transformers' configuration, what is said, words of the refusal).
REFUSED = {
    "experts": ("MixtralConfig", {}, "it has experts or convolutions"),
    "alibi": ("BloomConfig", {}, "BloomForCausalLM does not let its attention be replaced"),
    "recurrent": ("MambaConfig", {"tie_word_embeddings": True}, "MambaForCausalLM does not let its attention"),
    "no linear modules": ("GPT2Config", {}, "no linear module that could be adapted"),
    "other values": ("DeepseekV3Config", {}, "attends with queries of"),
    "mixed": ("Qwen3NextConfig", {"num_experts": 4}, "neither to all tokens before nor in a sliding window"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_run_exactly_is_refused_when_it_is_pulled(tmp_path, case):
    configuration, said, words = REFUSED[case]
    (tmp_path / "source").mkdir()
    make_base(tmp_path / "source", configuration, said)
    with pytest.raises(Invalid, match=words):
        pull(tmp_path / "base", "base", from_dir=tmp_path / "source", on_progress=lambda *_: None)
    assert not (tmp_path / "base").exists()


class StrangeConfig(LlamaConfig):
    model_type = "strange"


class DoublingForCausalLM(LlamaForCausalLM):
    """Does something to its logits that no setting tells of."""

    config_class = StrangeConfig

    def forward(self, *args, **named):
        out = super().forward(*args, **named)
        out.logits = out.logits * 2
        return out


class LeakingConfig(LlamaConfig):
    model_type = "leaking"


class LeakingForCausalLM(LlamaForCausalLM):
    """Mixes tokens outside of its attention: each embedding has a part of the one before."""

    config_class = LeakingConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda _module, _given, x: x + x.roll(1, dims=1) * 0.5)


@pytest.mark.parametrize("strange", [DoublingForCausalLM, LeakingForCausalLM])
def test_an_architecture_that_computes_otherwise_than_it_seems_is_refused(tmp_path, strange):
    from milepost.modeling.tiny import make_tiny

    configuration = strange.config_class
    AutoConfig.register(configuration.model_type, configuration, exist_ok=True)
    AutoModelForCausalLM.register(configuration, strange, exist_ok=True)
    source = tmp_path / "source"
    source.mkdir()
    make_tiny(source, lambda *_: None)
    strange(configuration(**SIZES)).save_pretrained(source)
    with pytest.raises(Invalid, match=f"transformers' {strange.__name__} gives other logits than it does through"):
        pull(tmp_path / "base", "base", from_dir=source, on_progress=lambda *_: None)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt-neox"])
def test_a_base_that_lacks_weights_is_refused_not_filled_with_random_ones(family, tmp_path, name):
    from safetensors.torch import load_file, save_file

    folder = Path(tmp_path / "base")
    folder.mkdir()
    for file in family(name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    lost = next(key for key in weights if ".1." in key and "norm" in key)
    save_file({key: value for key, value in weights.items() if key != lost}, folder / "model.safetensors")
    with pytest.raises(Invalid, match="its files lack weights"):
        load_base(folder, torch.float32)


def test_generic_families_are_not_forgotten():
    """The documentation promises these (docs/reference/bases.md)."""
    assert {"gemma", "gemma2", "gemma3", "smollm3", "gpt-neox", "phi", "starcoder2", "olmo2"} <= set(GENERIC)
