import pytest
import torch

from milepost.modeling.base import load_base
from milepost.modeling.cache import Cache, bytes_per_row
from milepost.modeling.model import plain_linear
from tests.modeling.test_base import whole_sequence_attention

TOKENS = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33] * 8  # 96: more than one block


@pytest.fixture(scope="module")
def model(tiny_base):
    return load_base(tiny_base, torch.float32)


@pytest.fixture(scope="module")
def expected(model):
    """Hidden states of the whole sequence at once."""
    positions = torch.arange(len(TOKENS))
    attend = whole_sequence_attention(model.config.heads // model.config.kv_heads)
    return model.hidden_states(torch.tensor([TOKENS]), positions[None], plain_linear(model), attend)[0]


def prefill(model, cache, row, tokens, start=0):
    positions = torch.arange(start, start + len(tokens))
    attend = cache.prefilling(row, start, len(tokens))
    return model.hidden_states(torch.tensor(tokens), positions, plain_linear(model), attend)


def decode(model, cache, tokens, positions):
    attend = cache.decoding(positions)
    return model.hidden_states(torch.tensor(tokens), torch.tensor(positions), plain_linear(model), attend)


def test_a_prompt_in_pieces_equals_the_whole(model, expected):
    cache = Cache(model.config, rows=1, dtype=torch.float32)
    pieces = [prefill(model, cache, 0, TOKENS[at : at + 40], at) for at in (0, 40, 80)]
    torch.testing.assert_close(torch.cat(pieces), expected, atol=2e-5, rtol=0)


def test_one_token_at_a_time_equals_the_whole(model, expected):
    cache = Cache(model.config, rows=1, dtype=torch.float32)
    steps = [decode(model, cache, [token], [position]) for position, token in enumerate(TOKENS)]
    torch.testing.assert_close(torch.cat(steps), expected, atol=2e-5, rtol=0)


def test_rows_of_different_lengths_share_a_step(model, expected):
    cache = Cache(model.config, rows=2, dtype=torch.float32)
    prefill(model, cache, 0, TOKENS[:70])
    prefill(model, cache, 1, TOKENS[:3])
    hidden = decode(model, cache, [TOKENS[70], TOKENS[3]], [70, 3])
    torch.testing.assert_close(hidden, expected[[70, 3]], atol=2e-5, rtol=0)


def test_a_copied_row_goes_on_where_its_source_was(model, expected):
    cache = Cache(model.config, rows=2, dtype=torch.float32)
    prefill(model, cache, 1, TOKENS[:50])
    cache.copy(1, 0, 50)
    torch.testing.assert_close(decode(model, cache, [TOKENS[50]], [50]), expected[[50]], atol=2e-5, rtol=0)


def test_what_overflowed_in_a_row_does_not_reach_its_next_sequence(model, expected):
    cache = Cache(model.config, rows=1, dtype=torch.float32)
    cache.values[0][0, :, :60] = torch.inf
    cache.clear(0, 60)
    prefill(model, cache, 0, TOKENS[:5])
    torch.testing.assert_close(decode(model, cache, [TOKENS[5]], [5]), expected[[5]], atol=2e-5, rtol=0)


def test_the_memory_of_a_row_is_told(model):
    cache = Cache(model.config, rows=3, dtype=torch.bfloat16)
    held = sum(kept.numel() * kept.element_size() for kept in (*cache.keys, *cache.values))
    assert held == 3 * bytes_per_row(model.config, torch.bfloat16)
