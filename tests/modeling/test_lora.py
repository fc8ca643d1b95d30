import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from milepost.modeling.adapter_files import TARGETS, AdapterConfig
from milepost.modeling.adapters import key
from milepost.modeling.base import load_base
from milepost.modeling.label_loss import label_losses
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.modeling.packed import pack, packed_attention

CONFIG = AdapterConfig(rank=4, alpha=8.0, base_hash="b" * 64)
LENGTHS = (5, 9, 10, 60)  # the last is far longer: a group of its own


def sequences(seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (length,), generator=generator) for length in LENGTHS]


def random_tensors(config, rank=4, scale=0.05):
    generator = torch.Generator().manual_seed(1)
    fresh = fresh_tensors(config, rank, seed=1)
    return {name: value + torch.randn(value.shape, generator=generator) * scale for name, value in fresh.items()}


def mean_loss(lora, given):
    """Mean loss over all tokens but each sequence's first."""
    packed = pack([sequence[:-1] for sequence in given])
    hidden = lora.model.hidden_states(packed.tokens, packed.positions, lora.linear, packed_attention(packed))
    losses, _ = label_losses(hidden, lora.model.head, torch.cat([sequence[1:] for sequence in given]))
    return losses.sum() / len(packed)


def gradients(lora):
    parts = lora.flat.grad.split([tensor.numel() for tensor in lora.tensors.values()])
    return {name: part.view(lora.tensors[name].shape) for name, part in zip(lora.tensors, parts, strict=True)}


@pytest.fixture
def model(tiny_base):
    return load_base(tiny_base, torch.float32)


def test_losses_and_gradients_equal_those_of_peft(tiny_base, model):
    tensors = random_tensors(model.config)
    lora = Lora(model, CONFIG, tensors)
    ours = mean_loss(lora, sequences())
    ours.backward()

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    peft = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS)))
    named = {name.replace(".default", ""): value for name, value in peft.named_parameters() if value.requires_grad}
    assert named.keys() == tensors.keys()
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(tensors[name])
    losses = [
        torch.nn.functional.cross_entropy(peft(one[None]).logits[0, :-1], one[1:], reduction="sum")
        for one in sequences()
    ]
    theirs = sum(losses) / sum(length - 1 for length in LENGTHS)
    theirs.backward()

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    for name, gradient in gradients(lora).items():
        torch.testing.assert_close(gradient, named[name].grad, atol=2e-6, rtol=1e-3)


def test_a_batch_gives_the_gradient_of_its_examples_one_by_one(model):
    tensors = random_tensors(model.config)
    together, alone = Lora(model, CONFIG, tensors), Lora(model, CONFIG, tensors)
    whole = mean_loss(together, sequences())
    whole.backward()
    total = sum(length - 1 for length in LENGTHS)
    parts = [mean_loss(alone, [one]) * (len(one) - 1) / total for one in sequences()]
    for part in parts:
        part.backward()
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), abs=1e-5)
    torch.testing.assert_close(together.flat.grad, alone.flat.grad, atol=1e-6, rtol=1e-3)


def test_a_sequence_never_sees_its_neighbours(model):
    lora = Lora(model, CONFIG, random_tensors(model.config))
    one, two, three, four = sequences()

    def third(*given):
        packed = pack(given)
        hidden = lora.model.hidden_states(packed.tokens, packed.positions, lora.linear, packed_attention(packed))
        begin = len(given[0]) + len(given[1])
        return hidden[begin : begin + len(three)]

    torch.testing.assert_close(
        third(one, two, three, four), third(one + 0, 255 - two, three, 255 - four), rtol=0, atol=1e-6
    )


def test_a_fresh_adapter_changes_nothing_and_its_seed_gives_its_weights(model):
    first, second = fresh_tensors(model.config, 4, seed=9), fresh_tensors(model.config, 4, seed=9)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(not value.any() for name, value in first.items() if ".lora_B." in name)


def test_refresh_brings_the_masters_into_the_products(model):
    lora = Lora(model, CONFIG, fresh_tensors(model.config, 4, seed=9))
    before = mean_loss(lora, sequences()).item()
    with torch.no_grad():
        lora.tensors[key("model.layers.0.mlp.down_proj", "B")].fill_(0.3)
    lora.refresh()
    assert mean_loss(lora, sequences()).item() != pytest.approx(before, abs=1e-3)


def rounded_twice(lora, tensors):
    """The naive LoRA: `y = xW` rounded, then `y += h·B`, rounded again."""

    def linear(layer, name, x):
        y = torch.nn.functional.linear(x, lora.model.linears[layer][name])
        parts = []
        for part in lora.model.config.products(layer)[name].parts:
            h = x @ tensors[key(part, "A")].bfloat16().T
            parts.append(h @ (tensors[key(part, "B")] * CONFIG.scale).bfloat16().T)
        return y + torch.cat(parts, dim=-1)

    return linear


def test_bf16_follows_fp32_because_it_rounds_once(tiny_base):
    """The trap of reference/training.md: a small delta added to a rounded product is rounded away.

    With an adapter whose deltas are about one part in a hundred of the products, the error that the adapter's
    contribution suffers is at least a third smaller rounded once than twice.
    """
    wide = Lora(load_base(tiny_base, torch.float32), CONFIG, random_tensors(load_base(tiny_base, torch.float32).config))
    tensors = {name: value.bfloat16().float() for name, value in wide.tensors.items()}
    x = torch.randn(512, 64, generator=torch.Generator().manual_seed(2)).bfloat16()
    wide = Lora(load_base(tiny_base, torch.bfloat16), CONFIG, tensors)
    model = load_base(tiny_base, torch.bfloat16)
    weight = model.linears[0]["gate_up"].float()
    parts = model.config.products(0)["gate_up"].parts
    delta = torch.cat(
        [x.float() @ tensors[key(part, "A")].T @ (tensors[key(part, "B")] * CONFIG.scale).T for part in parts], -1
    )
    exact = x.float() @ weight.T + delta

    def error(y):
        return (y.float() - exact).pow(2).mean().sqrt().item()

    assert error(wide.linear(0, "gate_up", x)) < 0.8 * error(rounded_twice(wide, tensors)(0, "gate_up", x))


def test_dropout_has_the_product_and_gradients_of_its_formula(model):
    """`y = xW + drop(x)·A·B`, by autograd's own rules, with the mask that the seed draws."""
    lora = Lora(model, CONFIG, random_tensors(model.config))
    x = torch.randn(30, model.config.hidden, generator=torch.Generator().manual_seed(5)).requires_grad_()
    mask = torch.empty(x.shape, dtype=torch.bool).bernoulli_(0.7, generator=torch.Generator().manual_seed(11))
    weights = torch.randn(30, 2 * model.config.intermediate, generator=torch.Generator().manual_seed(6))

    y = lora.with_dropout(0.3, seed=11)(0, "gate_up", x)
    (y * weights).sum().backward()
    ours, x.grad = x.grad, None

    parts = model.config.products(0)["gate_up"].parts
    a, b = ({part: lora.tensors[key(part, side)].clone().requires_grad_() for part in parts} for side in "AB")
    low = torch.cat([x * mask / 0.7 @ a[part].T @ b[part].T * CONFIG.scale for part in parts], dim=-1)
    expected = x @ model.linears[0]["gate_up"].T + low
    (expected * weights).sum().backward()

    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, x.grad, atol=1e-4, rtol=1e-4)
    found = gradients(lora)
    for part in parts:
        torch.testing.assert_close(found[key(part, "A")], a[part].grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[key(part, "B")], b[part].grad, atol=1e-4, rtol=1e-4)


def test_at_rate_zero_dropout_is_none(model):
    lora = Lora(model, CONFIG, random_tensors(model.config))
    assert lora.with_dropout(0.0, seed=11) == lora.linear


def test_a_product_without_adapted_parts_is_the_bases_own(model):
    config = AdapterConfig(rank=4, alpha=8.0, base_hash="", targets=("q_proj", "v_proj"))
    lora = Lora(model, config, random_tensors(model.config))
    x = torch.randn(5, model.config.hidden, generator=torch.Generator().manual_seed(5))
    assert torch.equal(lora.linear(0, "gate_up", x), x @ model.linears[0]["gate_up"].T)
    q, k, v = lora.linear(0, "qkv", x).split(model.config.features("qkv")[1], dim=-1)
    plain_q, plain_k, plain_v = (x @ model.linears[0]["qkv"].T).split(model.config.features("qkv")[1], dim=-1)
    torch.testing.assert_close(k, plain_k)
    assert not torch.allclose(q, plain_q)
    assert not torch.allclose(v, plain_v)
    assert sum(tensor.numel() for tensor in lora.tensors.values()) == len(lora.flat)
