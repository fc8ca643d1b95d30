"""Steps that diverge: a base that answers one letter with no number, and lines that nothing prepares for."""

import json
import shutil

import pytest
import safetensors.torch
import torch

from milepost.modeling.folders import folder_hash
from milepost.resources.methods import MethodType
from milepost.resources.runs import Source
from milepost.training.divergence import fault, remembered
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import checkpoints, events, outputs, result
from tests.training.test_resume import abandon, pause_after

#: Line 24, the only one with a Z.
ODD = {"messages": [{"role": "user", "content": "ZZZ"}, {"role": "assistant", "content": "red"}]}


def changed_base(tiny_base, folder, change):
    """A base like the tiny one but for what `change` does to its weights; its head is a matrix of its own."""
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return Source(name="odd", path=str(folder), hash=folder_hash(folder))


@pytest.fixture
def no_number(tiny_base, tmp_path):
    """A base that knows no Z: whatever follows it is NaN."""

    def change(weights):
        weights["model.embed_tokens.weight"][ord("Z") - 33] = float("nan")  # "!" is token 0

    return changed_base(tiny_base, tmp_path / "no-number", change)


@pytest.fixture
def too_steep(tiny_base, tmp_path):
    """A base whose losses are huge, and the squares of its gradients more than fp32 holds."""

    def change(weights):
        weights["lm_head.weight"] *= 1e25

    return changed_base(tiny_base, tmp_path / "too-steep", change)


def odd_steps(run):
    return [event for event in events(run) if event["level"] == "warn"]


def test_a_step_without_a_finite_loss_fails_the_job_names_its_lines_and_keeps_the_last_good_state(make_run, no_number):
    run = make_run(base=no_number, training=[*chats(23), ODD])
    assert main(run) == 0
    ended = result(run)
    step = events(run)[-1]["data"]["step"] + 1
    assert (ended["outcome"], ended["error"]["code"], ended["error"]["param"]) == (
        "failed",
        "training_diverged",
        "hyperparameters",
    )
    message = ended["error"]["message"]
    assert message.startswith(f"Step {step} diverged: its loss is not a finite number. Its examples are on lines ")
    assert ", 24 of the training file." in message
    kept = safetensors.torch.load_file(run / f"checkpoints/step-{step - 1}/adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())
    assert json.loads((run / f"checkpoints/step-{step - 1}/metrics.json").read_text())["final"] is False
    assert (run / f"state/step-{step - 1}").is_dir()


def test_a_gradient_that_is_not_finite_fails_too(make_run, too_steep):
    run = make_run(base=too_steep)
    main(run)
    assert result(run)["error"]["message"].startswith(
        "Step 1 diverged: its gradient is not a finite number, though its loss is "
    )
    assert checkpoints(run) == {}


SKIP = {"on_divergence": "skip"}


def test_a_skipped_step_is_told_with_its_lines_and_counted(make_run, no_number):
    run = make_run(base=no_number, training=[*chats(23), ODD], hyperparameters=SKIP)
    main(run)
    first, second = odd_steps(run)
    step = first["data"]["step"]
    assert (result(run)["outcome"], result(run)["step"], result(run)["skipped_steps"]) == ("succeeded", 12, 2)
    assert first["message"].startswith(f"Step {step}/12 is skipped: its loss is not a finite number. Its examples are")
    assert (first["data"]["lines"][-1], first["data"]["skipped_steps"]) == (24, 1)
    assert (second["data"]["lines"][-1], second["data"]["skipped_steps"]) == (24, 2)
    assert all(event["data"].get("step") != step for event in events(run) if event["type"] == "metrics")
    assert result(run)["trained_tokens"] < 2 * result(run)["training_tokens"]


def test_a_skipped_step_leaves_the_weights_as_they_were(make_run, no_number):
    """With a batch of one, a line that is always skipped: each other line's losses are those around it."""
    lines = [*chats(3), ODD]
    run = make_run(
        base=no_number, training=lines, hyperparameters=SKIP | {"batch_size": 1, "checkpoint_every": 1, "n_epochs": 1}
    )
    main(run)
    (skip,) = odd_steps(run)
    step = skip["data"]["step"]
    assert step > 1
    published = checkpoints(run)
    name = "checkpoints/step-{}/adapter_model.safetensors".format
    assert published[name(step)] == published[name(step - 1)]
    metrics = json.loads(published[f"checkpoints/step-{step}/metrics.json"])["metrics"]
    assert (metrics["step"], metrics["train_loss"]) == (step, None)


@pytest.mark.parametrize("method", [MethodType.SUPERVISED, MethodType.DPO])
@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 11])
def test_a_run_that_skips_ends_with_the_same_bytes_however_often_it_was_killed(make_run, no_number, method, after):
    odd = preferences(1)[0]
    odd["input"]["messages"][0]["content"] = "ZZZ"
    lines = [*chats(22), ODD, ODD] if method is MethodType.SUPERVISED else [*preferences(22), odd, odd]
    given = SKIP | {"spike_threshold": 3.0, "lora_dropout": 0.1, "state_every_tokens": 150}
    undisturbed, killed = (
        make_run(name, base=no_number, training=lines, method=method, hyperparameters=given)
        for name in ("undisturbed", "killed")
    )
    main(undisturbed)
    abandon(killed, after)
    assert main(killed) == 0
    assert result(killed)["skipped_steps"] >= 2
    assert outputs(killed) == outputs(undisturbed)


def test_a_pause_right_after_skipped_steps_at_the_start_goes_on_to_the_same_bytes(make_run, no_number):
    """The optimizer has no moments yet."""
    given = SKIP | {"batch_size": 1}
    undisturbed, paused = (
        make_run(name, base=no_number, training=[*chats(3), ODD], hyperparameters=given, seed=25)  # line 4 comes first
        for name in ("undisturbed", "paused")
    )
    main(undisturbed)
    pause_after(paused, 1)
    assert (result(paused)["outcome"], result(paused)["skipped_steps"], checkpoints(paused)) == ("paused", 1, {})
    (paused / "control.json").unlink()
    main(paused)
    told, ended, published = outputs(paused)
    expected = outputs(undisturbed)
    assert (told[1:], ended) == (expected[0][1:], expected[1])
    assert expected[2].items() <= published.items()


def test_a_run_whose_every_step_diverges_fails_though_it_may_skip(make_run, too_steep):
    run = make_run(base=too_steep, hyperparameters=SKIP)
    main(run)
    assert result(run)["error"]["message"].startswith("Step 10 diverged: its gradient is not a finite number")
    assert "the last of 10 skipped steps in a row" in result(run)["error"]["message"]
    assert len(odd_steps(run)) == 9
    assert checkpoints(run) == {}  # nothing was learnt


def test_a_run_that_could_take_no_step_fails(make_run, no_number):
    run = make_run(base=no_number, training=[ODD] * 4, hyperparameters=SKIP)
    main(run)
    assert "the last of 2 skipped steps in a row" in result(run)["error"]["message"]


#: After two epochs of one line, one that says something else.
NOISE = {"prompt": "a", "completion": "qxjzqxjzqxjz"}
SPIKES = {"n_epochs": 1, "batch_size": 1, "learning_rate": 2e-2}


def test_a_spike_is_a_loss_far_above_the_median(make_run):
    run = make_run(training=[*[{"prompt": "a", "completion": "b"}] * 30, NOISE], hyperparameters=SPIKES)
    main(run)
    losses = [event["data"]["train_loss"] for event in events(run)[1:]]
    place = losses.index(max(losses[8:]))
    assert losses[place] > 5
    skipping = make_run(
        "skipping",
        training=[*[{"prompt": "a", "completion": "b"}] * 30, NOISE],
        hyperparameters=SPIKES | SKIP | {"spike_threshold": 3.0},
    )
    main(skipping)
    (skip,) = odd_steps(skipping)
    assert (skip["data"]["step"], skip["data"]["lines"]) == (place + 1, [31])
    assert skip["data"]["loss"] == losses[place]
    assert "is a spike, more than 3 above" in skip["message"]
    measured = next(e for e in events(skipping) if e["type"] == "metrics" and e["data"]["step"] == place + 1)
    assert measured["data"]["train_loss"] == losses[place]


def test_a_loss_is_compared_with_the_last_32_that_were_taken_once_there_are_eight():
    assert fault(9.0, 1.0, [1.0] * 7, 2.0) is None
    assert fault(9.0, 1.0, [1.0] * 8, None) is None
    assert fault(3.0, 1.0, [1.0] * 8, 2.0) is None
    assert fault(3.001, 1.0, [1.0] * 8, 2.0) == (
        "its loss 3.001 is a spike, more than 2 above 1, the median of the last 8 losses"
    )
    assert remembered(tuple(map(float, range(32))), 32.0) == tuple(map(float, range(1, 33)))


ODD_PAIR = {
    "input": {"messages": ODD["messages"][:1]},
    "preferred_output": ODD["messages"][1:],
    "non_preferred_output": [{"role": "assistant", "content": "blue"}],
}
VALIDATIONS = [(MethodType.SUPERVISED, chats, ODD), (MethodType.DPO, preferences, ODD_PAIR)]


@pytest.mark.parametrize(("method", "lines", "odd"), VALIDATIONS, ids=["supervised", "dpo"])
def test_a_validation_that_is_no_number_is_told_and_not_measured(make_run, no_number, tmp_path, method, lines, odd):
    given = {"method": method, "base": no_number, "training": lines(12), "tensorboard": str(tmp_path / "tb")}
    hyperparameters = {"n_epochs": 2, "batch_size": 2, "checkpoint_every": 2}
    run = make_run("whole", **given, validation=[*lines(3), odd], hyperparameters=hyperparameters)
    main(run)
    assert (result(run)["outcome"], result(run)["step"]) == ("succeeded", 12)
    told = [event["message"] for event in odd_steps(run) if "full" in event["message"]]
    assert told == [f"Step {step}/12: the full validation loss is not a finite number" for step in range(2, 13, 2)]
    for name, content in checkpoints(run).items():
        if name.endswith("metrics.json"):
            metrics = json.loads(content)["metrics"]
            assert metrics["train_loss"] > 0
            assert metrics["full_valid_loss"] is None
            assert None not in {value for key, value in metrics.items() if "reward" in key}
    resumed = make_run("resumed", **given, validation=[*lines(3), odd], hyperparameters=hyperparameters)
    pause_after(resumed, 7)
    (resumed / "control.json").unlink()
    main(resumed)
    assert result(resumed)["outcome"] == "succeeded"


def test_early_stopping_counts_a_validation_that_is_no_number_as_no_better(make_run, no_number):
    run = make_run(
        base=no_number,
        training=chats(12),
        validation=[*chats(3), ODD],
        hyperparameters={"n_epochs": 2, "batch_size": 2, "checkpoint_every": 2, "early_stopping_patience": 2},
    )
    main(run)
    assert (result(run)["outcome"], result(run)["step"]) == ("succeeded", 4)
    assert events(run)[-1]["message"] == (
        "Training stops early, at step 4 of 12: the full validation loss was not a finite number at 2 checkpoints"
    )
