"""Forecasts: counts are exact, times follow the machine's speed, and constants are those of the training loop."""

import json

import pytest

from milepost.checks import forecast as module
from milepost.checks.forecast import Course, Sizes, forecast, read_sizes
from milepost.checks.sentences import duration, foreseen
from milepost.checks.tokens import Counted
from milepost.errors import Invalid
from milepost.modeling import machine
from milepost.modeling.base import load_base, load_config
from milepost.resources.forecasts import Forecast, Speed
from milepost.resources.methods import MethodType

SMOL = Sizes(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocab=49152, tied=True)
HERE = Speed(machine=machine.name(), dtype="bfloat16", gflops={1: 200.0, 2: 400.0})


def course(**changes) -> Course:
    given = {"method": MethodType.SUPERVISED, "n_epochs": 3, "batch_size": 8, "threads": 2}
    return Course(**(given | changes))


def examples(count: int, rows: int = 80) -> list[Counted]:
    return [Counted((rows,), (rows,), (rows // 2,)) for _ in range(count)]


def test_steps_and_tokens_are_those_of_the_plan():
    found = forecast(SMOL, course(), examples(21), speed=HERE)
    assert (found.epochs, found.steps, found.tokens) == (3, 9, 3 * 21 * 80)
    assert found.gflop_per_token == pytest.approx(0.51, rel=0.05)  # reference/training.md


def test_twice_the_speed_is_less_than_twice_as_fast_since_some_costs_are_fixed():
    slow = forecast(SMOL, course(threads=1), examples(200), speed=HERE).seconds
    fast = forecast(SMOL, course(threads=2), examples(200), speed=HERE).seconds
    assert 1.5 < slow / fast < 2


def test_a_sample_is_scaled_up():
    whole = forecast(SMOL, course(), examples(1000), speed=HERE)
    sample = forecast(SMOL, course(), examples(50), examples=1000, speed=HERE)
    assert (sample.steps, sample.tokens, sample.is_estimate) == (whole.steps, whole.tokens, True)
    assert sample.seconds == pytest.approx(whole.seconds)


def test_a_validation_file_takes_time_and_is_not_trained():
    alone = forecast(SMOL, course(), examples(200), speed=HERE)
    beside = forecast(SMOL, course(), examples(200), examples(100), speed=HERE)
    assert beside.tokens == alone.tokens
    assert beside.seconds > alone.seconds


def test_another_machines_speed_is_not_this_ones():
    found = forecast(SMOL, course(), examples(20), speed=HERE.model_copy(update={"machine": "elsewhere"}))
    assert (found.seconds, found.steps) == (None, 9)
    assert "not measured yet" in found.note


def test_memory_grows_with_the_length_of_examples():
    short, long = (forecast(SMOL, course(), examples(20, rows), speed=HERE).memory_bytes for rows in (80, 2000))
    assert 1e9 < short < long < 10e9


def test_the_time_of_reinforcement_is_left_open():
    found = forecast(SMOL, course(method=MethodType.REINFORCEMENT), examples(20), speed=HERE)
    assert (found.seconds, found.steps) == (None, 9)


def test_weights_are_counted_as_the_base_has_them(tiny_base):
    import torch

    model = load_base(tiny_base, torch.float32)
    sizes = read_sizes(tiny_base)
    found = model.embedding.numel() + sum(weight.numel() for layer in model.linears for weight in layer.values())
    assert sizes.weights == found
    assert sizes.hidden == load_config(tiny_base).hidden


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt-neox", "phi", "starcoder2"])
def test_weights_of_other_families_are_counted_too(family, name):
    import torch

    model, sizes = load_base(family(name), torch.float32), read_sizes(family(name))
    assert sizes.layers * sizes.layer_weights == sum(w.numel() for layer in model.linears for w in layer.values())
    assert sizes.vocab * sizes.hidden == model.head.numel()


def test_a_size_that_is_not_said_is_named(tiny_base, tmp_path):
    config = json.loads((tiny_base / "config.json").read_text()) | {"hidden_size": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Invalid, match=r"does not say hidden_size\. Add it"):
        read_sizes(tmp_path)


def test_constants_are_those_of_the_training_loop():
    from milepost.training import batches, plan

    assert (module.MAX_ROWS, module.VALID_EVERY) == (batches.MAX_ROWS, plan.VALID_EVERY)


def test_the_faster_of_two_measurements_is_kept():
    busy = HERE.model_copy(update={"gflops": {1: 100.0, 2: 410.0}, "is_quiet": False})
    assert busy.better(HERE).gflops == {1: 200.0, 2: 410.0}
    assert busy.better(HERE).is_quiet
    assert busy.better(HERE.model_copy(update={"machine": "elsewhere"})) == busy
    assert HERE.of(4) == 400.0


def test_what_a_busy_machine_said_stands_until_it_is_quiet():
    busy = HERE.model_copy(update={"is_quiet": False})
    assert busy.stands(HERE.machine, is_quiet_now=False)
    assert not busy.stands(HERE.machine, is_quiet_now=True)
    assert HERE.stands(HERE.machine, is_quiet_now=True)
    assert not HERE.stands("elsewhere", is_quiet_now=False)


def test_the_sentence_names_time_and_memory():
    found = Forecast(
        epochs=3,
        steps=150,
        tokens=79_680,
        seconds=251.0,
        tokens_per_second=317.4,
        memory_bytes=1_930_000_000,
        threads=2,
    )
    assert foreseen(found) == (
        "Forecast: 150 steps over 79,680 tokens in 3 epochs, 4 min 11 s at 317 tokens/s, up to 1.9 GB of memory with 2 "
        "threads of this machine"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (59, "59 s"), (61, "1 min 1 s"), (7_325, "2 h 2 min")])
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text
