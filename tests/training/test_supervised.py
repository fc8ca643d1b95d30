from array import array

import pytest
import torch

from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.base import load_base
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.training import supervised
from milepost.training.data import Example
from milepost.training.method import NOTHING, Score
from tests.training.conftest import HYPERPARAMETERS as GIVEN


def example(number, length, learnt):
    """`length` tokens, of which those at the places `learnt` are learnt."""
    tokens = array("i", [(number * 7 + i * 3) % 250 for i in range(length)])
    return Example(number, tokens, bytes(i in learnt for i in range(length)), is_cut=False)


EXAMPLES = [
    example(1, 12, range(6, 11)),
    example(2, 30, (4, 5, 20, 21)),
    example(3, 9, (8,)),
    example(4, 70, range(50, 70)),
]


def whole(max_rows, tiny_base):
    """Score and gradient of EXAMPLES, taken in batches of at most so many rows."""
    model = load_base(tiny_base, torch.float32)
    config = AdapterConfig(rank=4, alpha=8.0, base_hash="")
    lora = Lora(model, config, {name: value + 0.01 for name, value in fresh_tensors(model.config, 4, 1).items()})
    score = NOTHING
    for batch in supervised.batches(EXAMPLES, max_rows):
        loss, measured = supervised.loss(lora, lora.linear, batch, GIVEN)
        (loss / supervised.count(EXAMPLES)).backward()
        score += measured
    return score, lora.flat.grad


@pytest.mark.parametrize("max_rows", [40, 1])
def test_a_batch_in_parts_and_example_by_example_is_the_same_step(tiny_base, max_rows):
    at_once, gradient = whole(1000, tiny_base)
    in_parts, gradient_in_parts = whole(max_rows, tiny_base)
    assert at_once.sums["loss"][1] == in_parts.sums["loss"][1] == 30
    assert at_once.loss == pytest.approx(in_parts.loss, abs=1e-5)
    torch.testing.assert_close(gradient, gradient_in_parts, atol=1e-6, rtol=1e-3)


def test_only_learnt_tokens_are_labels():
    (batch,) = supervised.batches(EXAMPLES[:1])
    assert batch.labels.tolist() == EXAMPLES[0].tokens[6:11].tolist()
    assert batch.rows.tolist() == [5, 6, 7, 8, 9]


def test_what_stands_behind_the_last_learnt_token_is_not_computed():
    (batch,) = supervised.batches(EXAMPLES[1:2])
    assert len(batch.packed) == 21


def test_no_batch_is_larger_than_allowed_and_none_is_lost():
    found = list(supervised.batches(EXAMPLES, 40))
    assert [len(batch.packed) for batch in found] == [8 + 10 + 21, 69]
    assert sum(len(batch.labels) for batch in found) == 30


def test_scores_add_up_to_means_over_tokens():
    score = Score({"loss": (2.0, 4), "accuracy": (1, 4)}) + Score({"loss": (4.0, 2), "accuracy": (2, 2)})
    assert score.means("train_") == {"train_loss": 1.0, "train_accuracy": 0.5}
    assert (score + NOTHING).loss == 1.0
