"""Training that goes on from an adapter: its own starting point, once."""

import json

import pytest
import torch
from safetensors.torch import load_file

from milepost.modeling.folders import file_hash
from milepost.resources.methods import MethodType
from milepost.resources.runs import Source, Task
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import events, outputs, result
from tests.training.test_resume import abandon

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def start(make_run):
    """The adapter of a finished run, of another shape than a fresh one would have."""
    shape = {"n_epochs": 1, "lora_rank": 3, "lora_alpha": 5.0, "lora_targets": ("q_proj", "v_proj", "down_proj")}
    run = make_run("first", hyperparameters=shape)
    assert main(run) == 0
    folder = run / "checkpoints/step-6"
    return Source(name="ft:tiny:personal::abcdefgh", path=str(folder), hash=file_hash(folder / WEIGHTS))


SHAPELESS = {"lora_rank": None, "lora_alpha": None}


@pytest.fixture
def goes_on(make_run, start):
    def make(name, *, hyperparameters=None, **changes):
        return make_run(name, adapter=start, hyperparameters=SHAPELESS | (hyperparameters or {}), **changes)

    return make


@pytest.mark.parametrize("method", [MethodType.SUPERVISED, MethodType.DPO])
def test_at_rate_zero_the_checkpoint_has_the_bytes_of_the_start(goes_on, start, method):
    lines = chats(12) if method is MethodType.SUPERVISED else preferences(12)
    run = goes_on("still", method=method, training=lines, hyperparameters={"learning_rate": 0.0})
    assert main(run) == 0
    assert result(run)["outcome"] == "succeeded"
    assert file_hash(run / "checkpoints/step-6" / WEIGHTS) == start.hash


def test_the_first_loss_is_that_of_the_adapter_it_goes_on_from(goes_on, start, make_run):
    """One run measures its last adapter on a file, the next begins to train on that file: the same number."""
    same = chats(4, seed=9)
    measured = make_run(
        "measured",
        adapter=start,
        validation=same,
        hyperparameters=SHAPELESS | {"learning_rate": 0.0, "n_epochs": 1},
    )
    main(measured)
    run = goes_on("on", training=same, hyperparameters={"n_epochs": 1})
    main(run)
    assert events(run)[2]["data"]["train_loss"] == events(measured)[-1]["data"]["full_valid_loss"]


def test_it_is_told_what_it_goes_on_from(goes_on):
    run = goes_on("on")
    main(run)
    assert events(run)[1]["message"] == (
        "Training goes on from `ft:tiny:personal::abcdefgh`: LoRA of rank 3 and alpha 5 on down_proj, q_proj, v_proj"
    )


def test_its_shape_is_that_of_the_start(goes_on):
    run = goes_on("on")
    main(run)
    config = json.loads((run / "checkpoints/step-12/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 5.0, ["down_proj", "q_proj", "v_proj"])


def test_masters_go_on_in_fp32(goes_on, start):
    run = goes_on("half", dtype="bfloat16", hyperparameters={"learning_rate": 0.0})
    main(run)
    assert file_hash(run / "checkpoints/step-12" / WEIGHTS) == start.hash
    assert {tensor.dtype for tensor in load_file(run / "checkpoints/step-12" / WEIGHTS).values()} == {torch.float32}


@pytest.mark.parametrize("after", [0, 1, 4, 6, 9])
def test_killed_and_resumed_it_is_not_applied_twice(goes_on, after):
    undisturbed, killed = goes_on("undisturbed"), goes_on("killed")
    main(undisturbed)
    abandon(killed, after)
    assert main(killed) == 0
    assert outputs(killed) == outputs(undisturbed)


@pytest.mark.parametrize("task", [Task.VALIDATE, Task.TRAIN])
def test_a_corrupted_adapter_fails_with_a_sentence(goes_on, start, task):
    run = goes_on("corrupt", task=task)
    file = run.parent / "first/checkpoints/step-6" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert main(run) == 0
    assert result(run)["outcome"] == "failed"
    assert result(run)["error"]["message"].startswith(f"The adapter step-6/{WEIGHTS} has sha256 ")
    assert result(run)["error"]["message"].endswith(f"not {start.hash}: its bytes were changed after it was saved")


def test_a_missing_adapter_is_an_error_never_the_base(goes_on):
    run = goes_on("missing")
    (run.parent / "first/checkpoints/step-6" / WEIGHTS).unlink()
    main(run)
    assert result(run)["error"]["message"].startswith(f"The adapter step-6/{WEIGHTS} is not there.")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"lora_rank": 8}, "whose lora_rank is 3: it cannot become 8"),
        ({"lora_alpha": 32.0}, "whose lora_alpha is 5: it cannot become 32"),
        ({"lora_targets": ("q_proj",)}, "whose lora_targets is down_proj, q_proj, v_proj: it cannot become q_proj"),
    ],
)
def test_another_shape_is_refused_before_training_starts(goes_on, asked, words):
    run = goes_on("other", task=Task.VALIDATE, hyperparameters=asked)
    main(run)
    error = result(run)["error"]
    assert (error["code"], error["param"]) == ("invalid_hyperparameters", next(iter(asked)))
    assert words in error["message"]


def test_the_shape_it_has_may_be_asked_for(goes_on):
    asked = {"lora_rank": 3, "lora_alpha": 5.0, "lora_targets": ("v_proj", "q_proj", "down_proj")}
    run = goes_on("same", task=Task.VALIDATE, hyperparameters=asked)
    main(run)
    assert result(run)["outcome"] == "validated"
