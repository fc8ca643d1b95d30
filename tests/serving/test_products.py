import pytest
import torch
from torch.nn import functional

from milepost.serving.products import Packed, Plain, product


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def weight(dtype):
    return (torch.randn(320, 64, generator=torch.Generator().manual_seed(0)) / 8).to(dtype)


@pytest.fixture
def x(dtype):
    return torch.randn(512, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


def kinds(weight):
    return [Plain(weight), product(weight)]


@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "chosen here"])
def test_a_product_is_rounded_once(weight, x, kind):
    exact = functional.linear(x.double(), weight.double())
    error = (kinds(weight)[kind](x).double() - exact).abs().mean()
    assert error < 1.02 * (exact.to(x.dtype).double() - exact).abs().mean() + 1e-6


@pytest.mark.parametrize("kind", [0, 1], ids=["plain", "chosen here"])
def test_a_small_addition_is_not_rounded_away(weight, x, kind):
    """What naive bf16 LoRA loses: a change smaller than the last bit of what it is added to."""
    small = (torch.randn(512, 320, generator=torch.Generator().manual_seed(2)) * 0.01).to(x.dtype)
    exact = functional.linear(x.double(), weight.double()) + small.double()
    error = (kinds(weight)[kind].plus(x, small).double() - exact).abs().mean()
    assert error < 1.02 * (exact.to(x.dtype).double() - exact).abs().mean() + 1e-6


@pytest.mark.parametrize("rows", range(4, 33, 4))
def test_a_row_has_the_same_bits_in_any_company(weight, x, rows):
    computed = product(weight)
    assert torch.equal(computed(x[:rows])[:4], computed(x[:4]))
    assert torch.equal(
        computed.plus(x[:rows], x[:rows, :1].expand(-1, 320).contiguous())[:4],
        computed.plus(x[:4], x[:4, :1].expand(-1, 320).contiguous()),
    )


def test_weights_are_packed_where_torch_can(weight):
    assert isinstance(product(weight), Packed) == torch.backends.mkldnn.is_available()
