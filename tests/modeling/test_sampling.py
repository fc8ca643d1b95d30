import pytest
import torch

from milepost.modeling.sampling import BLOCK, Draws, adjust, greedy, likeliest, sample

LOGITS = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))


def tokens(logits, *, temperature=1.0, top_p=1.0, draws):
    rows = len(draws)
    return sample(
        logits.expand(rows, -1),
        torch.full((rows,), temperature),
        torch.full((rows,), top_p),
        torch.tensor(draws, dtype=torch.float64),
    ).tolist()


def test_temperature_zero_takes_the_likeliest():
    assert tokens(LOGITS, temperature=0.0, draws=[0.0, 0.999]) == [1, 1]


def test_a_draw_picks_where_the_running_sum_passes_it():
    assert tokens(LOGITS, draws=[0.05, 0.15, 0.59, 0.61, 0.74, 0.76]) == [0, 1, 1, 2, 2, 3]


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p():
    assert sorted(set(tokens(LOGITS, top_p=0.7, draws=[i / 100 for i in range(100)]))) == [1, 3]


def test_top_p_zero_still_leaves_the_likeliest():
    assert tokens(LOGITS, top_p=0.0, draws=[0.0, 0.999]) == [1, 1]


def test_a_high_temperature_evens_out_and_a_low_one_sharpens():
    hot = tokens(LOGITS, temperature=2.0, draws=[i / 1000 for i in range(1000)])
    cold = tokens(LOGITS, temperature=0.5, draws=[i / 1000 for i in range(1000)])
    assert (hot.count(1), cold.count(1)) == (370, 725)  # √0.5 / Σ√p and 0.5² / Σp², of 1000


def test_the_largest_draw_never_picks_a_token_of_no_probability():
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    assert tokens(logits, draws=[1 - 2**-32]) == [1]


def test_a_row_does_not_depend_on_its_company():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 1000, generator=generator)
    temperatures = torch.tensor([0.0, 0.7, 1.0, 1.5] * 4)
    top_ps = torch.tensor([1.0, 0.9, 0.5, 1.0] * 4)
    draws = torch.rand(16, generator=generator, dtype=torch.float64)
    together = sample(logits, temperatures, top_ps, draws)
    rows = [slice(row, row + 1) for row in range(16)]
    alone = torch.cat([sample(logits[row], temperatures[row], top_ps[row], draws[row]) for row in rows])
    assert together.tolist() == alone.tolist()


def test_draws_are_those_of_their_seed_and_index():
    first, again, other = (Draws(7, 0), Draws(7, 0), Draws(7, 1))
    numbers = [first.next() for _ in range(3)]
    assert numbers == [again.next() for _ in range(3)]
    assert numbers != [other.next() for _ in range(3)]


def test_logits_that_are_no_numbers_still_give_a_token_of_the_vocabulary():
    assert tokens(torch.full((4,), float("nan")), draws=[0.5])[0] < 4


def test_penalties_are_openais():
    """mu[j] - c[j] * alpha_frequency - (c[j] > 0) * alpha_presence"""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0])
    adjust(logits, {1: 1, 3: 3}, frequency=0.5, presence=1.0)
    assert logits.tolist() == [1.0, 0.5, 3.0, 1.5]


def test_logprobs_are_natural_and_the_likeliest_come_first():
    logprob, top = likeliest(LOGITS * 1.0, 3, 2)
    assert round(logprob, 4) == -1.3863
    assert [(token, round(value, 4)) for token, value in top] == [(1, -0.6931), (3, -1.3863)]


@pytest.mark.parametrize("vocab", [BLOCK * 3, 260])
def test_the_likeliest_is_the_first_of_equals(vocab):
    logits = torch.zeros(3, vocab)
    logits[0, [5, BLOCK + 2]] = logits[1, [BLOCK + 2, BLOCK + 7]] = 1
    logits[2, BLOCK + 1] = torch.nan
    assert greedy(logits).tolist() == [5, BLOCK + 2, BLOCK + 1] == logits.argmax(-1).tolist()
