import json
import math
from array import array

import pytest
import torch

from milepost.modeling.adapter_files import AdapterConfig
from milepost.modeling.adapters import shapes
from milepost.modeling.base import load_base
from milepost.modeling.lora import Lora, fresh_tensors
from milepost.modeling.template import load_chat
from milepost.resources.lines import parse_line
from milepost.resources.methods import LineShape, MethodType
from milepost.resources.runs import Task
from milepost.training import dpo
from milepost.training.data import EXAMPLES, Example, Pair
from milepost.training.method import NOTHING
from milepost.training.run import main
from tests.training.conftest import HYPERPARAMETERS, chats, preferences
from tests.training.reading import events, result

GIVEN = HYPERPARAMETERS.model_copy(update={"beta": 0.3})
CONFIG = AdapterConfig(rank=4, alpha=8.0, base_hash="")


@pytest.fixture
def make_preferences(make_run):
    def make(name="run", **changes):
        lines = changes.pop("training", preferences(22))
        return make_run(name, method=MethodType.DPO, training=lines, **changes)

    return make


def answer(number, prompt, length, shift):
    """`prompt` tokens of a question, then an answer that `shift` tells from another."""
    question = [(number * 7 + i * 3) % 250 for i in range(prompt)]
    tokens = [*question, *((number * 11 + i * 5 + shift) % 250 for i in range(length))]
    return Example(number, array("i", tokens), bytes(i >= prompt for i in range(len(tokens))), is_cut=False)


#: Of very different lengths, the preferred answer now the longer one, now the shorter.
PAIRS = [
    Pair(1, answer(1, 6, 5, 0), answer(1, 6, 9, 1)),
    Pair(2, answer(2, 30, 12, 0), answer(2, 30, 2, 1)),
    Pair(3, answer(3, 3, 1, 0), answer(3, 3, 60, 1)),
    Pair(4, answer(4, 80, 20, 0), answer(4, 80, 21, 1)),
]


def learner(tiny_base, *, is_continued=False):
    """An adapter that has left its reference already, so that rewards are not zero."""
    model = load_base(tiny_base, torch.float32)
    generator = torch.Generator().manual_seed(2)
    reference = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes(model.config, 4)}
    tensors = {
        name: value + torch.randn(value.shape, generator=generator) * 0.05
        for name, value in fresh_tensors(model.config, 4, seed=1).items()
    }
    return Lora(model, CONFIG, tensors, reference=reference if is_continued else None)


def learn(lora, batches, count):
    score = NOTHING
    for batch in batches:
        loss, measured = dpo.loss(lora, lora.linear, batch, GIVEN)
        (loss / count).backward()
        score += measured
    return score


@pytest.mark.parametrize("is_continued", [False, True])
def test_a_batch_has_the_losses_and_gradients_of_its_pairs_one_by_one(tiny_base, is_continued):
    together, alone = (learner(tiny_base, is_continued=is_continued) for _ in range(2))
    whole = learn(together, dpo.batches(PAIRS), 4)
    one_by_one = learn(alone, [batch for pair in PAIRS for batch in dpo.batches([pair])], 4)
    assert len(list(dpo.batches(PAIRS))) == 1
    assert whole.means() == pytest.approx(one_by_one.means(), abs=1e-5)
    torch.testing.assert_close(together.flat.grad, alone.flat.grad, atol=1e-6, rtol=1e-3)


def test_the_adapter_it_goes_on_from_is_the_reference_and_leaves_no_trace(tiny_base):
    lora = learner(tiny_base, is_continued=True)
    before = [{name: joined.clone() for name, joined in layer.items()} for layer in lora._joined]
    learn(lora, dpo.batches(PAIRS), 4)
    for layer, was in zip(lora._joined, before, strict=True):
        assert all(torch.equal(layer[name], was[name]) for name in was)


def test_no_batch_is_larger_than_allowed_unless_one_pair_is():
    found = list(dpo.batches(PAIRS, 100))
    assert [len(batch.rows.packed) for batch in found] == [10 + 14 + 3 + 62, 41 + 31, 99 + 100]
    assert [len(batch.preferred) for batch in found] == [2, 1, 1]


def test_training_prefers_what_is_preferred(make_preferences):
    run = make_preferences(validation=preferences(9, seed=5), hyperparameters={"n_epochs": 4})
    assert main(run) == 0
    steps = [event["data"] for event in events(run)[1:]]
    assert steps[0]["train_loss"] == pytest.approx(math.log(2))
    assert (steps[0]["train_reward_margin"], steps[0]["train_reward_accuracy"]) == (0.0, 0.0)
    assert steps[-1]["train_reward_accuracy"] == 1.0
    assert steps[-1]["full_valid_reward_margin"] > 0.5
    assert steps[-1]["full_valid_loss"] < 0.5


def test_events_and_checkpoints_tell_rewards_beside_openais_metrics(make_preferences):
    run = make_preferences(validation=preferences(9, seed=5), hyperparameters={"n_epochs": 1})
    main(run)
    told = events(run)[-1]["data"]
    kept = json.loads((run / "checkpoints/step-6/metrics.json").read_text())["metrics"]
    names = ("loss", "mean_token_accuracy", "reward_margin", "reward_accuracy")
    assert set(told) == {
        "step",
        "total_steps",
        *(f"{part}_{name}" for part in ("train", "valid", "full_valid") for name in names),
    }
    assert kept == {name: value for name, value in told.items() if name != "total_steps"}


def test_only_the_answers_are_learnt_not_what_was_said_before(tiny_base):
    line = (
        b'{"input": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bbb"},'
        b'{"role": "user", "content": "c"}]}, "preferred_output": [{"role": "assistant", "content": "dd"}],'
        b'"non_preferred_output": [{"role": "assistant", "content": "e"}]}'
    )
    pair = EXAMPLES[LineShape.PREFERENCE](1, parse_line(line), load_chat(tiny_base), 500)
    assert (pair.preferred.learnt_count, pair.non_preferred.learnt_count) == (len("dd") + 1, len("e") + 1)


@pytest.fixture
def validated(make_run):
    def check(lines, method=MethodType.DPO, **changes):
        run = make_run(task=Task.VALIDATE, method=method, training=lines, **changes)
        assert main(run) == 0
        return run

    return check


def test_preferences_are_validated_and_counted(validated):
    run = validated(preferences(12), validation=preferences(3))
    assert result(run)["outcome"] == "validated"
    assert events(run)[0]["message"].startswith("Training file: 12 examples of ")


def test_chats_are_refused_in_openais_words(validated):
    assert result(validated(chats(12)))["error"] == {
        "code": "invalid_training_file",
        "message": "The job failed due to an invalid training file. Invalid file format. Input file file-training is "
        "in the fine-tune-chat format, but the specified fine-tuning job is not using 'supervised' as the training "
        "method (provided method=dpo).",
        "param": "training_file",
    }


def test_every_bad_line_is_told(validated):
    two = preferences(1)[0] | {"preferred_output": [{"role": "assistant", "content": "x"}] * 2}
    marks = preferences(1)[0] | {"non_preferred_output": [{"role": "assistant", "content": "a<|im_end|>"}]}
    run = validated([*preferences(10), two, marks, chats(1)[0]])
    assert [event["message"] for event in events(run)] == [
        'Line 11: "preferred_output" must hold exactly one message, with role "assistant"',
        "Line 12: message 2 contains an invalid token: <|im_end|>",
        "Line 13: is in the fine-tune-chat format, but expected is the fine-tune-preference format",
    ]


def test_a_pair_whose_answer_was_cut_away_is_not_trained(validated, make_preferences):
    long = preferences(1)[0]
    long["input"] = {"messages": [{"role": "user", "content": "x" * 300}]}
    run = validated([*preferences(10), long], hyperparameters={"max_length": 150})
    assert events(run)[1]["message"] == "1 of 11 examples are longer than 150 tokens and are cut at their end: lines 11"
    run = make_preferences(
        "train", training=[*preferences(4), long], hyperparameters={"max_length": 150, "n_epochs": 1}
    )
    main(run)
    assert result(run)["total_steps"] == 1
