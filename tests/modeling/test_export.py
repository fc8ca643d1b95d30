"""Exports are loaded by the programs they are for, and answer as the checkpoint does."""

import json
import os

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from milepost import config
from milepost.errors import Corrupt, Invalid, NotFound
from milepost.modeling.export import export_merged, export_peft
from milepost.modeling.folders import file_hash
from milepost.resources.models import Base
from milepost.resources.runs import Source
from milepost.store import bases
from milepost.training.run import main
from tests.training.conftest import chats, make_run

__all__ = ["make_run"]

QUESTION = [{"role": "user", "content": "north one red"}]
REAL = "smollm2-135m-instruct"


def base_source(folder):
    card = Base.model_validate_json((folder / "base.json").read_bytes())
    return Source(name=card.name, path=str(folder), hash=card.hash)


def trained(make_run, base, **changes):
    """The adapter of a short training's last checkpoint."""
    run = make_run("trained", base=base, **changes)
    assert main(run) == 0
    folder = max((run / "checkpoints").iterdir(), key=lambda each: int(each.name.removeprefix("step-")))
    return Source(name="ft:tuned", path=str(folder), hash=file_hash(folder / "adapter_model.safetensors"))


@pytest.fixture
def base(tiny_base):
    return base_source(tiny_base)


@pytest.fixture
def adapter(make_run, base):
    return trained(make_run, base, hyperparameters={"lora_targets": ("down_proj", "q_proj", "v_proj")})


def tokens(folder):
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        QUESTION, tokenize=True, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]


def logits(model, folder):
    with torch.no_grad():
        return model(tokens(folder)).logits[0].float()


def answer(model, folder, length=12):
    found = model.generate(tokens(folder), max_new_tokens=length, do_sample=False, pad_token_id=0)
    return found[0].tolist()


def with_peft(base, folder, dtype=torch.float32):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype), folder)


def test_the_adapter_is_loaded_by_peft(base, adapter, tmp_path):
    export_peft(adapter, base, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    exported, published = with_peft(base, tmp_path / "out"), with_peft(base, adapter.path)
    assert torch.equal(logits(exported, base.path), logits(published, base.path))


def test_a_merged_model_is_loaded_by_transformers_and_answers_alike(base, adapter, tmp_path):
    out = tmp_path / "new/out"
    export_merged(adapter, base, out)
    merged, tuned = AutoModelForCausalLM.from_pretrained(out), with_peft(base, adapter.path)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged, out), logits(tuned, base.path), atol=1e-4, rtol=1e-4)
    assert answer(merged, out) == answer(tuned, base.path)
    untuned = AutoModelForCausalLM.from_pretrained(base.path)
    assert answer(merged, out) != answer(untuned, base.path)


def test_a_merged_folder_has_what_the_base_has_and_no_pickle(base, adapter, tmp_path):
    export_merged(adapter, base, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_merged_model_in_bfloat16_is_the_fp32_sum_rounded_once(base, adapter, tmp_path):
    export_merged(adapter, base, tmp_path / "wide")
    export_merged(adapter, base, tmp_path / "half", "bfloat16")
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    wide, half = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("wide", "half"))
    assert all(torch.equal(half[name], weight.to(torch.bfloat16)) for name, weight in wide.items())


def test_a_folder_that_is_there_is_not_replaced(base, adapter, tmp_path):
    for export in (export_peft, export_merged):
        with pytest.raises(Invalid, match="is there already, and would be replaced"):
            export(adapter, base, tmp_path)


def test_changed_bytes_are_refused_and_leave_nothing(base, adapter, tmp_path):
    other = "0" * 64
    for export in (export_peft, export_merged):
        with pytest.raises(Corrupt, match="its bytes were changed after it was saved"):
            export(adapter.model_copy(update={"hash": other}), base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_not_there_is_named(base, adapter, tmp_path):
    gone = base.model_copy(update={"path": str(tmp_path / "gone")})
    with pytest.raises(NotFound, match="Fetch it: `milepost pull tiny-random-llama`"):
        export_merged(adapter, gone, tmp_path / "out")


@pytest.mark.e2e
@pytest.mark.real_model
def test_a_real_model_merged_answers_as_its_adapter_does(make_run, tmp_path):
    """In fp32 to 1e-3 of the logits. In bf16 its rounding costs something: docs/how-to/export.md says how much."""
    base = base_source(bases.get(config.load(os.environ), REAL)[1])
    given = {"learning_rate": 1e-3, "lora_rank": 16, "n_epochs": 1}
    adapter = trained(make_run, base, training=chats(40), hyperparameters=given, dtype="bfloat16")
    export_merged(adapter, base, tmp_path / "wide")
    export_merged(adapter, base, tmp_path / "half", "bfloat16")
    tuned = with_peft(base, adapter.path)
    exact = logits(tuned, base.path)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "wide")
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32)  # computed in fp32
    torch.testing.assert_close(logits(wide, base.path), exact, atol=1e-3, rtol=1e-3)
    assert answer(wide, base.path) == answer(tuned, base.path)
    assert divergence(exact, logits(wide, base.path)) == pytest.approx(0, abs=1e-6)
    assert divergence(exact, logits(half, base.path)) < 0.05  # 0.012 where it was measured


def divergence(exact, other):
    """Mean over the positions of what is lost by predicting with `other`, in nats (Kullback-Leibler)."""
    wanted, found = exact.log_softmax(-1), other.log_softmax(-1)
    return (wanted.exp() * (wanted - found)).sum(-1).mean().item()
