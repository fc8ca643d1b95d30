from pathlib import Path

import pytest
import torch
from torch.nn import functional

from milepost.errors import Corrupt, Invalid
from milepost.modeling import kernels
from milepost.modeling.adapters import adapted_linear, load_adapter
from milepost.modeling.base import load_base
from milepost.modeling.llama import FUSED
from milepost.modeling.model import plain_linear
from milepost.resources.runs import ADAPTER_WEIGHTS
from milepost.serving.adapters import Adapters

#: Sums of the same numbers in another order; in bf16 that tips a last bit here and there.
ONE_ROUNDING = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2**-7, "atol": 2**-8}}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request, tiny_base):
    return load_base(tiny_base, request.param)


@pytest.fixture(params=[False, True], ids=["", "compiled"])
def adapters(request, model, base, tmp_path_factory):
    found = kernels.load(tmp_path_factory.getbasetemp() / "kernels") if request.param else None
    if request.param and (found is None or model.dtype != torch.bfloat16):
        pytest.skip("no compiler, or not for these numbers")
    return Adapters(model, base_hash=base.hash, slots=3, kernels=found)


def file_of(source):
    return Path(source.path) / ADAPTER_WEIGHTS


def offline(model, base, source):
    """One adapter alone, as training computes it."""
    return adapted_linear(
        model,
        load_adapter(file_of(source), sha256=source.hash, base_hash=base.hash, model=model.config, dtype=model.dtype),
    )


@pytest.mark.parametrize("name", FUSED)
def test_each_row_has_its_own_adapter_and_one_rounding(model, base, adapters, make_adapter, name):
    first, second = make_adapter(1), make_adapter(2)
    slots = [adapters.hold(first), None, adapters.hold(second), adapters.hold(first)]
    x = torch.randn(4, model.config.features(name)[0], generator=torch.Generator().manual_seed(0)).to(model.dtype)
    expected = torch.stack(
        [
            linear(1, name, x)[row]
            for row, linear in enumerate(
                [
                    offline(model, base, first),
                    plain_linear(model),
                    offline(model, base, second),
                    offline(model, base, first),
                ]
            )
        ]
    )
    torch.testing.assert_close(adapters.linear(slots)(1, name, x), expected, **ONE_ROUNDING[model.dtype])


def test_a_small_adapter_is_not_rounded_away(tiny_base, base, make_adapter):
    """What naive bf16 LoRA loses: a change smaller than the last bit of the product it is added to."""
    model = load_base(tiny_base, torch.bfloat16)
    adapters = Adapters(model, base_hash=base.hash, slots=1)
    source = make_adapter(1, size=0.01)
    linear = adapters.linear([adapters.hold(source)])
    x = torch.randn(512, model.config.hidden, generator=torch.Generator().manual_seed(0)).bfloat16()
    adapter = load_adapter(
        file_of(source), sha256=source.hash, base_hash=base.hash, model=model.config, dtype=torch.bfloat16
    )
    h = functional.linear(x, adapter.a[0]["gate_up"])
    joined = torch.cat((model.linears[0]["gate_up"], adapter.b[0]["gate_up"]), dim=1)
    exact = functional.linear(torch.cat((x, h), dim=1).float(), joined.float())
    rounding = (exact - exact.bfloat16().float()).abs().mean()
    assert (exact - linear(0, "gate_up", x).float()).abs().mean() < 1.05 * rounding


def test_one_entry_stands_for_all_rows(model, base, adapters, make_adapter):
    source = make_adapter(1)
    x = torch.ones(7, model.config.hidden, dtype=model.dtype)
    linear = adapters.linear([adapters.hold(source)])
    expected = offline(model, base, source)(0, "qkv", x)
    torch.testing.assert_close(linear(0, "qkv", x), expected, **ONE_ROUNDING[model.dtype])


def test_adapters_of_different_ranks_share_the_slots(model, base, adapters, make_adapter):
    low, high = make_adapter(1, rank=2), make_adapter(2, rank=8)
    slots = [adapters.hold(low)] * 2 + [adapters.hold(high)] * 2
    x = torch.ones(4, model.config.hidden, dtype=model.dtype)
    expected = torch.cat([offline(model, base, source)(0, "qkv", x)[:2] for source in (low, high)])
    torch.testing.assert_close(adapters.linear(slots)(0, "qkv", x), expected, **ONE_ROUNDING[model.dtype])


def test_a_higher_rank_than_any_before_leaves_the_others_in_their_slots(model, base, adapters, make_adapter):
    low, high = make_adapter(1, rank=2), make_adapter(2, rank=32)
    slot = adapters.hold(low)
    x = torch.ones(4, model.config.hidden, dtype=model.dtype)
    before = adapters.linear([slot] * 4)(0, "qkv", x)
    adapters.hold(high)
    assert torch.equal(adapters.linear([slot] * 4)(0, "qkv", x), before)


def test_without_adapters_the_base_computes(model, adapters):
    x = torch.ones(4, model.config.hidden, dtype=model.dtype)
    expected = functional.linear(x, model.linears[0]["o"])
    assert torch.equal(adapters.linear([None] * 4)(0, "o", x), expected)


def test_an_adapter_is_loaded_once(adapters, make_adapter):
    source = make_adapter(1)
    assert adapters.hold(source) == adapters.hold(source)


def test_the_one_evicted_is_the_least_recently_asked_for(adapters, make_adapter):
    first, second, third, fourth = (make_adapter(seed) for seed in range(4))
    for source in (first, second, third, first):
        adapters.release(adapters.hold(source))
    adapters.hold(fourth)
    assert adapters.loaded == {first.hash, third.hash, fourth.hash}


def test_one_that_is_held_is_never_evicted(adapters, make_adapter):
    held = make_adapter(0)
    adapters.hold(held)
    for seed in range(1, 6):
        adapters.release(adapters.hold(make_adapter(seed)))
    assert held.hash in adapters.loaded


def test_while_all_are_held_a_further_one_waits(adapters, make_adapter):
    slots = [adapters.hold(make_adapter(seed)) for seed in range(3)]
    late = make_adapter(3)
    assert adapters.hold(late) is None
    adapters.release(slots[1])
    assert adapters.hold(late) == slots[1]


def test_a_file_deleted_after_it_was_loaded_is_an_error(adapters, make_adapter):
    source = make_adapter(1)
    adapters.release(adapters.hold(source))
    file_of(source).unlink()
    with pytest.raises(Corrupt, match="is not there"):
        adapters.hold(source)


def test_a_file_changed_after_it_was_loaded_is_an_error(adapters, make_adapter):
    source = make_adapter(1)
    adapters.release(adapters.hold(source))
    file_of(source).write_bytes(b"\0" + file_of(source).read_bytes())
    with pytest.raises(Corrupt, match="its bytes were changed"):
        adapters.hold(source)


def test_a_file_written_again_with_the_same_bytes_is_the_same(adapters, make_adapter):
    source = make_adapter(1)
    slot = adapters.hold(source)
    content = file_of(source).read_bytes()
    file_of(source).unlink()
    file_of(source).write_bytes(content)
    assert adapters.hold(source) == slot


def test_weights_that_are_not_finite_are_refused(adapters, make_adapter):
    with pytest.raises(Invalid, match="not finite"):
        adapters.hold(make_adapter(1, size=float("inf")))


def test_a_wrong_one_takes_no_ones_place(adapters, make_adapter):
    sources = [make_adapter(seed) for seed in range(3)]
    for source in sources:
        adapters.release(adapters.hold(source))
    with pytest.raises(Invalid):
        adapters.hold(make_adapter(9, size=float("nan")))
    assert adapters.loaded == {source.hash for source in sources}


@pytest.fixture
def keeping(model, base):
    """One slot, and room for two adapters beside it."""
    size = 2 * sum(
        rank * (inputs + sum(outputs))
        for name, rank in (("qkv", 12), ("o", 4), ("gate_up", 8), ("down", 4))
        for inputs, outputs in [model.config.features(name)]
    )
    return Adapters(model, base_hash=base.hash, slots=1, kept_bytes=2 * size * model.dtype.itemsize)


def test_an_adapter_that_is_kept_comes_back_without_its_file_being_read(keeping, make_adapter, monkeypatch):
    first, second = make_adapter(1), make_adapter(2)
    for source in (first, second):
        keeping.release(keeping.hold(source))
    reads = []
    monkeypatch.setattr(Path, "read_bytes", reads.append)
    assert keeping.hold(first) == 0
    assert reads == []


def test_an_adapter_that_is_kept_is_itself_in_its_slot_again(model, base, keeping, make_adapter):
    first, second = make_adapter(1), make_adapter(2)
    for source in (first, second):
        keeping.release(keeping.hold(source))
    x = torch.ones(4, model.config.hidden, dtype=model.dtype)
    linear = keeping.linear([keeping.hold(first)])
    torch.testing.assert_close(
        linear(0, "qkv", x), offline(model, base, first)(0, "qkv", x), **ONE_ROUNDING[model.dtype]
    )


def test_an_adapter_that_is_kept_is_an_error_once_its_file_is_gone(keeping, make_adapter):
    first, second = make_adapter(1), make_adapter(2)
    for source in (first, second):
        keeping.release(keeping.hold(source))
    file_of(first).unlink()
    with pytest.raises(Corrupt):
        keeping.hold(first)


def test_the_adapter_least_recently_asked_for_is_kept_no_longer(keeping, make_adapter, monkeypatch):
    sources = [make_adapter(seed) for seed in range(3)]
    for source in (*sources, sources[1]):
        keeping.release(keeping.hold(source))
    reads = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read_bytes(path))[1])
    keeping.release(keeping.hold(sources[2]))
    keeping.release(keeping.hold(sources[0]))
    assert reads == [file_of(sources[0])]
