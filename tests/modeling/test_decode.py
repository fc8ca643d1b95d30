"""A decode step by the kernels, held against the forward pass in fp32 and against itself in other company."""

import pytest
import torch

from milepost.modeling import kernels
from milepost.modeling.base import load_base
from milepost.modeling.cache import Cache
from milepost.modeling.decode import can_decode, decode
from milepost.modeling.model import plain_linear

TOKENS = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33] * 8  # 96: more than one block


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return kernels.load(tmp_path_factory.mktemp("kernels")) or pytest.skip("no compiler")


@pytest.fixture(scope="module")
def models(tiny_base):
    return {dtype: load_base(tiny_base, dtype) for dtype in (torch.float32, torch.bfloat16)}


def prefill(model, cache, row, tokens):
    attend = cache.prefilling(row, 0, len(tokens))
    return model.hidden_states(torch.tensor(tokens), torch.arange(len(tokens)), plain_linear(model), attend)


@torch.inference_mode()
def step(model, lengths, compiled=None):
    """Hidden states of the token after the first so many, one row each."""
    cache = Cache(model.config, rows=len(lengths), dtype=model.dtype)
    for row, length in enumerate(lengths):
        prefill(model, cache, row, TOKENS[:length])
    tokens = [TOKENS[length] for length in lengths]
    if compiled:
        return decode(model, compiled, cache, tokens=tokens, positions=lengths, linear=plain_linear(model))
    at = torch.tensor(lengths)
    return model.hidden_states(torch.tensor(tokens), at, plain_linear(model), cache.decoding(lengths))


LENGTHS = [90, 3, 64, 17]


def test_a_step_by_the_kernels_is_nearer_to_fp32_than_torchs(models, compiled):
    """Keys, values and products are bf16 either way; between them the kernels round less."""
    exact = step(models[torch.float32], LENGTHS)
    theirs = (step(models[torch.bfloat16], LENGTHS) - exact).square().mean().sqrt()
    ours = (step(models[torch.bfloat16], LENGTHS, compiled) - exact).square().mean().sqrt()
    assert ours < 1.1 * theirs
    assert ours < 0.02 * exact.square().mean().sqrt()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bits_in_any_company_on_any_number_of_threads(models, compiled, threads):
    alone = step(models[torch.bfloat16], LENGTHS, compiled)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        beside = step(models[torch.bfloat16], [95, 1, 33, 80, *LENGTHS], compiled)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(beside[4:], alone)


@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (14, 2), (4, 4), (5, 1)])
@pytest.mark.parametrize("size", sorted(kernels.HEAD_SIZES))
def test_attention_is_that_of_torch_for_every_size_of_head(compiled, size, heads, kv_heads):
    """Seven query heads to a key head are taken as four and three."""
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, kv_heads, 40, size, generator=generator).bfloat16() for _ in range(2))
    qkv = torch.randn(2, (heads + 2 * kv_heads) * size, generator=generator).bfloat16()
    still = torch.ones(2, size // 2), torch.zeros(2, size // 2)  # turned by no angle
    found = compiled.attend(qkv, still, torch.tensor([39, 20]), keys, values)
    new = qkv.view(2, -1, size)
    assert torch.equal(keys[1, :, 20], new[1, heads : heads + kv_heads])
    assert torch.equal(values[0, :, 39], new[0, heads + kv_heads :])
    for row, length in enumerate((40, 21)):
        given = (new[row, :heads, None], keys[row, :, :length], values[row, :, :length])
        expected = torch.nn.functional.scaled_dot_product_attention(*(x.float()[None] for x in given), enable_gqa=True)
        torch.testing.assert_close(found[row].float(), expected.flatten(), atol=0.01, rtol=0.01)


def test_what_is_not_a_number_does_not_become_one(compiled):
    x = torch.full((4, 64), torch.nan).bfloat16()
    assert compiled.add_norm(x, None, torch.ones(64).bfloat16(), 1e-5).isnan().all()
    assert compiled.silu_product(x).isnan().all()
    keys = torch.zeros(4, 1, 8, 16).bfloat16()
    still = torch.ones(4, 8), torch.zeros(4, 8)
    assert compiled.attend(x, still, torch.tensor([3] * 4), keys, keys.clone()).isnan().all()


@pytest.mark.parametrize("name", ["llama3", "llama-linear", "llama-biases", "qwen2"])
def test_so_it_is_for_families_with_biases_and_other_rotations(family, compiled, name):
    exact = step(load_base(family(name), torch.float32), LENGTHS)
    model = load_base(family(name), torch.bfloat16)
    assert can_decode(model)
    theirs, ours = (step(model, LENGTHS, *given) - exact for given in ((), (compiled,)))
    assert ours.square().mean().sqrt() < 1.25 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("name", ["mistral", "qwen3", "gemma2"])
def test_windows_norms_of_heads_and_other_code_are_left_to_torch(family, name):
    assert not can_decode(load_base(family(name), torch.bfloat16))


def test_fp32_is_left_to_torch(models):
    assert [can_decode(models[dtype]) for dtype in (torch.float32, torch.bfloat16)] == [False, True]


def test_kernels_are_compiled_once_and_kept_for_their_owner(compiled, tmp_path):
    folder = tmp_path / "kernels"
    assert kernels.load(folder)
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    assert kernels.load(folder)
    assert (kept.stat().st_mtime_ns, folder.stat().st_mode & 0o777) == (before, 0o700)


def test_without_a_compiler_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kernels.load(tmp_path / "kernels") is None


def test_where_they_cannot_be_kept_there_are_none(compiled, tmp_path):
    (tmp_path / "kernels").write_text("a file")
    assert kernels.load(tmp_path / "kernels") is None
