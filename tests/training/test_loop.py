import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from milepost.modeling.folders import file_hash
from milepost.resources.runs import RunHyperparameters
from milepost.training.run import main
from tests.training.conftest import chats
from tests.training.reading import checkpoints, events, outputs, result
from tests.training.test_resume import abandon


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


def test_a_diverging_run_fails_and_names_its_lines(make_run):
    run = make_run(hyperparameters={"learning_rate": 1e30, "max_grad_norm": 1e30})
    assert main(run) == 0
    assert result(run)["outcome"] == "failed"
    assert result(run)["error"]["code"] == "training_diverged"
    assert "Its examples are on lines" in result(run)["error"]["message"]


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


def test_a_run_of_default_settings_has_the_losses_it_always_had(make_run):
    """Measured before a method could be anything but supervised: whoever changes them changes everybody's runs."""
    given = RunHyperparameters(n_epochs=2, batch_size=2, learning_rate=1e-3, max_length=512).model_dump()
    run = make_run(training=chats(64), hyperparameters=given)
    main(run)
    losses = [event["data"]["train_loss"] for event in events(run)[1:]]
    assert [losses[step] for step in (0, 1, 2, 15, 31, 32, 63)] == pytest.approx(
        [6.7395675, 6.1070381, 6.3206702, 4.2686177, 2.5302280, 3.6648552, 1.8583840], abs=1e-5
    )


def test_checkpoints_between_epochs_are_measured_in_full(make_run):
    run = make_run(validation=chats(5, seed=5), hyperparameters={"checkpoint_every": 4})
    main(run)
    measured = [event["data"]["step"] for event in events(run)[1:] if "full_valid_loss" in event["data"]]
    assert measured == [4, 6, 8, 12]
    assert {name.split("/")[1] for name in checkpoints(run)} == {"step-4", "step-6", "step-8", "step-12"}


@pytest.fixture
def make_worse(make_run):
    """Runs whose validation loss rises: the rate is far too high, and what is validated is not what is trained."""

    def make(name, patience=2):
        given = {"n_epochs": 8, "learning_rate": 0.2, "early_stopping_patience": patience, "checkpoint_every": 3}
        noise = [{"prompt": "zq" * 9, "completion": "jx" * 9}] * 3
        pairs = [{"prompt": str(number), "completion": "a"} for number in range(24)]
        return make_run(name, training=pairs, validation=noise, hyperparameters=given)

    return make


def test_training_stops_when_validation_gets_no_better(make_worse):
    run = make_worse("worse")
    main(run)
    full = {e["data"]["step"]: e["data"]["full_valid_loss"] for e in events(run) if "full_valid_loss" in e["data"]}
    best = min(full, key=full.get)
    last = max(full)
    assert [step for step in full if step > best] == sorted(full)[-2:]
    assert last < 48
    assert (result(run)["outcome"], result(run)["step"], result(run)["total_steps"]) == ("succeeded", last, 48)
    assert json.loads((run / f"checkpoints/step-{last}/metrics.json").read_text())["final"] is True
    assert events(run)[-1]["message"] == (
        f"Training stops early, at step {last} of 48: the full validation loss was lowest at step {best} "
        f"({full[best]:.4f}) and has not been lower at 2 checkpoints since"
    )


@pytest.mark.parametrize("after", [3, 5, 8])
def test_a_run_that_stops_early_does_so_however_often_it_was_killed(make_worse, after):
    undisturbed, killed = make_worse("undisturbed"), make_worse("killed")
    main(undisturbed)
    abandon(killed, after)
    assert main(killed) == 0
    assert outputs(killed) == outputs(undisturbed)


def test_fewer_targets_make_a_smaller_adapter_that_peft_computes_alike(make_run, tiny_base):
    from peft import PeftModel

    from milepost.modeling.adapters import adapted_linear, load_adapter
    from milepost.modeling.base import load_base
    from milepost.modeling.packed import pack, packed_attention

    run = make_run(hyperparameters={"lora_targets": ("v_proj", "q_proj", "down_proj"), "n_epochs": 1})
    main(run)
    folder = run / "checkpoints/step-6"
    assert json.loads((folder / "adapter_config.json").read_text())["target_modules"] == [
        "down_proj", "q_proj", "v_proj",
    ]  # fmt: skip
    tokens = torch.arange(40, 70)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), folder)
    with torch.no_grad():
        theirs = peft(tokens[None]).logits[0]
    model = load_base(tiny_base, torch.float32)
    file = folder / "adapter_model.safetensors"
    base_hash = json.loads((run / "job.json").read_text())["base"]["hash"]
    adapter = load_adapter(file, sha256=file_hash(file), base_hash=base_hash, model=model.config, dtype=torch.float32)
    packed = pack([tokens])
    linear = adapted_linear(model, adapter)
    hidden = model.hidden_states(packed.tokens, packed.positions, linear, packed_attention(packed))
    torch.testing.assert_close(hidden @ model.head.T, theirs, atol=1e-4, rtol=1e-4)
