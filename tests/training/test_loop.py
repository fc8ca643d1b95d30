import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from milepost.training.run import main
from tests.training.conftest import chats
from tests.training.reading import checkpoints, events, result


@pytest.fixture
def finished(make_run):
    run = make_run(validation=chats(9, seed=5))
    assert main(run) == 0
    return run


def test_a_run_succeeds_and_counts_its_tokens(finished):
    found = result(finished)
    assert (found["outcome"], found["error"], found["step"], found["total_steps"]) == ("succeeded", None, 12, 12)
    assert found["trained_tokens"] == 2 * found["training_tokens"]
    assert set(found["versions"]) == {"milepost", "python", "torch", "safetensors", "tokenizers"}


def test_every_step_is_told_in_openais_words(finished):
    told = events(finished)
    assert [event["child_seq"] for event in told] == list(range(1001, 1014))
    assert told[0]["message"] == "Training 12 steps in float32 on 1 thread"
    step = told[1]
    assert step["message"] == f"Step 1/12: training loss={step['data']['train_loss']:.2f}"
    assert (step["type"], list(step["data"])) == (
        "metrics",
        ["step", "total_steps", "train_loss", "train_mean_token_accuracy"],
    )


def test_validation_is_measured_every_tenth_step_and_in_full_at_each_epochs_end(finished):
    measured = {event["data"]["step"]: set(event["data"]) for event in events(finished)[1:]}
    assert [step for step, keys in measured.items() if "valid_loss" in keys] == [6, 10, 12]
    assert [step for step, keys in measured.items() if "full_valid_loss" in keys] == [6, 12]


def test_the_loss_falls(finished):
    losses = [event["data"]["train_loss"] for event in events(finished)[1:]]
    assert losses[-1] < losses[0] / 2


def test_each_epoch_ends_in_a_checkpoint_with_the_metrics_of_its_step(finished):
    assert sorted({name.split("/")[1] for name in checkpoints(finished)}) == ["step-12", "step-6"]
    metrics = json.loads((finished / "checkpoints/step-6/metrics.json").read_text())
    event = next(event["data"] for event in events(finished)[1:] if event["data"]["step"] == 6)
    assert {key: metrics[key] for key in ("step", "total_steps", "epoch", "final")} == {
        "step": 6,
        "total_steps": 12,
        "epoch": 1.0,
        "final": False,
    }
    assert metrics["metrics"] == {key: value for key, value in event.items() if key != "total_steps"} | {"step": 6.0}


def test_the_last_checkpoint_is_final(finished):
    assert json.loads((finished / "checkpoints/step-12/metrics.json").read_text())["final"] is True


def test_full_validation_loss_equals_transformers_on_the_assistants_tokens(finished, tiny_base):
    """Through PEFT and transformers, one example at a time: no padding, no cut, no hidden tokens."""
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, finished / "checkpoints/step-12")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    losses, hits = [], []
    for line in chats(9, seed=5):
        prompt = tokenizer.apply_chat_template(
            line["messages"][:1], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        answer = tokenizer.encode(line["messages"][1]["content"] + "<|im_end|>", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        wanted = torch.tensor(answer)
        losses += torch.nn.functional.cross_entropy(logits, wanted, reduction="none").tolist()
        hits += (logits.argmax(-1) == wanted).tolist()
    measured = events(finished)[-1]["data"]
    assert measured["full_valid_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert measured["full_valid_mean_token_accuracy"] == pytest.approx(sum(hits) / len(hits))


def test_the_seed_decides_the_run(make_run):
    same, again, other = make_run("same"), make_run("again"), make_run("other", seed=8)
    for run in (same, again, other):
        main(run)
    assert checkpoints(same) == checkpoints(again)
    assert checkpoints(same) != checkpoints(other)


def test_training_goes_on_from_an_adapter(make_run, finished):
    from milepost.modeling.folders import file_hash
    from milepost.resources.runs import Source

    folder = finished / "checkpoints/step-12"
    digest = file_hash(folder / "adapter_model.safetensors")
    run = make_run("more", adapter=Source(name="ft:x", path=str(folder), hash=digest))
    assert main(run) == 0
    assert events(run)[2]["data"]["train_loss"] < 2.0


def test_a_diverging_run_fails_and_names_its_lines(make_run):
    run = make_run(hyperparameters={"learning_rate": 1e30, "max_grad_norm": 1e30})
    assert main(run) == 0
    assert result(run)["outcome"] == "failed"
    assert result(run)["error"]["code"] == "training_diverged"
    assert "its examples are on lines" in result(run)["error"]["message"]


def test_a_changed_base_is_an_error(make_run):
    run = make_run()
    spec = json.loads((run / "job.json").read_text())
    spec["base"]["hash"] = "0" * 64
    (run / "job.json").write_text(json.dumps(spec))
    main(run)
    assert "its files were changed" in result(run)["error"]["message"]


def test_bfloat16_runs_too(make_run):
    run = make_run(dtype="bfloat16")
    main(run)
    assert result(run)["outcome"] == "succeeded"
    assert events(run)[0]["data"]["dtype"] == "bfloat16"


def test_the_dtype_that_auto_chose_is_kept_and_told(make_run):
    run = make_run(dtype="auto")
    main(run)
    assert events(run)[0]["data"]["dtype"] in {"float32", "bfloat16"}


def test_progress_tells_where_it_stands(finished):
    progress = json.loads((finished / "progress.json").read_text())
    assert (progress["phase"], progress["step"], progress["total_steps"], progress["eta_s"]) == ("done", 12, 12, 0.0)
