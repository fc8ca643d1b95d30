"""Whole runs on bases of other families: killed and resumed to the same bytes, and a checkpoint that peft loads."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from milepost.modeling.folders import file_hash, folder_hash
from milepost.resources.methods import MethodType
from milepost.resources.models import Base
from milepost.resources.runs import Source
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import outputs, result
from tests.training.test_resume import abandon

LINES = {MethodType.SUPERVISED: chats, MethodType.DPO: preferences}


@pytest.fixture
def make(make_run, family):
    def run(name, family_name, method=MethodType.SUPERVISED, **changes):
        card = Base.model_validate_json((family(family_name) / "base.json").read_bytes())
        base = Source(name=card.name, path=str(family(family_name)), hash=card.hash)
        given = {"lora_targets": card.targets, "lora_dropout": 0.1, "n_epochs": 1} | changes.pop("hyperparameters", {})
        return make_run(name, base=base, method=method, training=LINES[method](20), hyperparameters=given, **changes)

    return run


@pytest.mark.parametrize("method", LINES)
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gpt-neox"])
def test_a_run_killed_after_steps_ends_with_the_same_bytes(make, name, method):
    undisturbed, killed = make("undisturbed", name, method), make("killed", name, method)
    assert main(undisturbed) == 0
    for after in (1, 3):
        abandon(killed, after)
    assert main(killed) == 0
    assert outputs(killed) == outputs(undisturbed)


@pytest.mark.parametrize("name", ["gemma2", "phi"])
def test_training_goes_on_from_a_checkpoint_and_peft_loads_what_it_ends_with(make, family, name):
    first = make("first", name)
    assert main(first) == 0
    start = first / "checkpoints/step-5"
    adapter = Source(name="ft:first", path=str(start), hash=file_hash(start / "adapter_model.safetensors"))
    shape = {"lora_rank": None, "lora_alpha": None, "lora_targets": None}
    second = make("second", name, adapter=adapter, hyperparameters=shape)
    assert main(second) == 0
    base = AutoModelForCausalLM.from_pretrained(family(name), dtype=torch.float32)
    before = base(torch.arange(30)[None]).logits
    tuned = PeftModel.from_pretrained(base, second / "checkpoints/step-5")(torch.arange(30)[None]).logits
    assert (tuned - before).abs().max() > 0.1


def test_a_validation_says_what_training_will_cost(make):
    run = make("run", "gpt-neox", task="validate")
    assert main(run) == 0
    found = result(run)
    assert (found["outcome"], found["forecast"]["steps"]) == ("validated", 5)


def test_targets_that_the_base_does_not_have_fail_the_run(make):
    run = make("run", "gpt-neox", hyperparameters={"lora_targets": ("q_proj",)})
    assert main(run) == 0
    assert json.loads((run / "result.json").read_text())["error"]["param"] == "lora_targets"


@pytest.fixture
def mute(tiny_base, tmp_path):
    """A base without chat template."""
    folder = shutil.copytree(tiny_base, tmp_path / "mute")
    (folder / "chat_template.jinja").unlink()
    return Source(name="mute", path=str(folder), hash=folder_hash(folder))


@pytest.mark.parametrize(("method", "lines"), [(MethodType.SUPERVISED, chats), (MethodType.DPO, preferences)])
def test_without_a_template_chats_are_refused_once_with_what_to_do(make_run, mute, method, lines):
    run = make_run(base=mute, task="validate", method=method, training=lines(12))
    assert main(run) == 0
    error = result(run)["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert error["message"].startswith("The job failed due to an invalid training file. This base model has no chat")
    assert "`milepost pull NEW-NAME --from FOLDER --chat-template FILE`" in error["message"]


def test_without_a_template_pairs_of_texts_are_trained(make_run, mute):
    pairs = [{"prompt": f"{n} and one is ", "completion": str(n + 1)} for n in range(20)]
    run = make_run(base=mute, training=pairs)
    assert main(run) == 0
    assert result(run)["outcome"] == "succeeded"


def test_whose_code_computed_is_kept_with_the_result(make):
    run = make("run", "phi")
    assert main(run) == 0
    assert set(result(run)["versions"]) == {"milepost", "python", "torch", "safetensors", "tokenizers", "transformers"}
