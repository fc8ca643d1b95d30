import json

import pytest
import safetensors.torch

from milepost.errors import Invalid, NotFound
from milepost.modeling.folders import file_hash
from milepost.resources.methods import MethodType
from milepost.resources.runs import Source
from milepost.training.replay import replay
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import checkpoints, outputs, result
from tests.training.test_resume import pause_after


@pytest.fixture
def finished(make_run):
    run = make_run(validation=chats(9, seed=5))
    main(run)
    return run


@pytest.fixture
def replayed(tmp_path):
    def again(run):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        return replay(run, scratch, main)

    return again


def change(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_replay_is_the_same_and_leaves_the_run_alone(finished, replayed):
    before = outputs(finished)
    verdict = replayed(finished)
    assert (verdict.is_same, verdict.differences, verdict.reasons, verdict.notes) == (True, (), (), ())
    assert (verdict.events, verdict.checkpoints, verdict.tensors) == (13, 2, 2 * 28)
    assert outputs(finished) == before


def test_a_replay_leaves_the_jobs_curve_alone(make_run, replayed, tmp_path):
    run = make_run(tensorboard=str(tmp_path / "curves"), validation=chats(9, seed=5))
    main(run)
    before = {file: file.read_bytes() for file in (tmp_path / "curves").rglob("*") if file.is_file()}
    assert before
    assert replayed(run).is_same
    assert {file: file.read_bytes() for file in (tmp_path / "curves").rglob("*") if file.is_file()} == before
    asked = json.loads((tmp_path / "scratch/job.json").read_text())
    assert (asked["tensorboard"], asked["integrations"]) == (None, [])


def test_what_was_paused_or_tuned_from_preferences_or_from_an_adapter_is_replayed_too(make_run, replayed, finished):
    weights = finished / "checkpoints/step-12/adapter_model.safetensors"
    run = make_run(
        "continued",
        method=MethodType.DPO,
        training=preferences(22),
        adapter=Source(name="ft:x", path=str(weights.parent), hash=file_hash(weights)),
        hyperparameters={"lora_rank": None, "lora_alpha": None},
    )
    pause_after(run, 4)  # of whose events two come before the first step
    (run / "control.json").unlink()
    main(run)
    verdict = replayed(run)
    assert verdict.is_same
    assert verdict.notes == ("not compared: the checkpoint of step 3, which a pause left",)


def test_the_dtype_that_auto_chose_is_not_chosen_anew(make_run, replayed):
    run = make_run(dtype="auto", hyperparameters={"n_epochs": 1})
    main(run)
    chosen = result(run)["conditions"]["dtype"]
    assert replayed(run).is_same
    assert json.loads((run.parent / "scratch/job.json").read_text())["dtype"] == chosen


def test_a_run_that_failed_fails_again(make_run, replayed):
    run = make_run(hyperparameters={"learning_rate": 1e30, "max_grad_norm": 1e30})
    main(run)
    assert result(run)["outcome"] == "failed"
    verdict = replayed(run)
    assert (verdict.is_same, verdict.checkpoints) == (True, 1)


def test_another_seed_differs_from_the_first_step(finished, replayed):
    loss = json.loads((finished / "events.jsonl").read_text().splitlines()[1])["data"]["train_loss"]
    change(finished / "job.json", seed=8)
    verdict = replayed(finished)
    assert verdict.differences[0].startswith(f"step 1: train_loss was {loss}, is now ")
    assert verdict.differences[1].startswith(
        "checkpoint of step 6: tensor base_model.model.model.layers.0.mlp.down_proj.lora_A.weight differs, by "
    )
    assert len(verdict.differences) == 2
    assert verdict.reasons == ("job.json is not the one that the job ran with: it was changed since",)


def test_another_number_of_threads_is_named(finished, replayed):
    """Whether two threads add up to the same bits is the processor's: that they are two is told in any case."""
    change(finished / "job.json", threads=2)
    verdict = replayed(finished)
    assert verdict.differences[0] == (
        "then it told: Training 12 steps in float32 on 1 thread Now: Training 12 steps in float32 on 2 threads"
    )
    assert "threads: 1 then, 2 now" in verdict.reasons


def test_a_weight_that_was_changed_is_found(finished, replayed):
    file = finished / "checkpoints/step-12/adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.weight"
    tensors[name][3, 1] += 0.5
    safetensors.torch.save_file(tensors, file)
    verdict = replayed(finished)
    assert verdict.differences == (f"checkpoint of step 12: tensor {name} differs, by 0.5 at most",)
    assert verdict.reasons == (
        "step-12/adapter_model.safetensors was changed after it was saved: its sha256 is not that of its manifest",
    )


def test_other_libraries_and_another_processor_are_named(finished, replayed):
    then = json.loads((finished / "result.json").read_text())
    change(
        finished / "result.json",
        versions=then["versions"] | {"torch": "2.0.0"},
        conditions=then["conditions"] | {"processor": "Abacus 9"},
    )
    change(finished / "job.json", seed=8)
    reasons = replayed(finished).reasons
    assert f"processor: Abacus 9 then, {then['conditions']['processor']} now" in reasons
    assert f"torch: 2.0.0 then, {then['versions']['torch']} now" in reasons


def test_a_loss_that_was_changed_is_found_and_no_reason_is_invented(finished, replayed):
    lines = (finished / "events.jsonl").read_text().splitlines()
    event = json.loads(lines[5])
    event["data"]["train_loss"] = 0.25
    lines[5] = json.dumps(event)
    (finished / "events.jsonl").write_text("\n".join(lines) + "\n")
    verdict = replayed(finished)
    (difference,) = verdict.differences
    assert difference.startswith("step 5: train_loss was 0.25, is now ")
    assert verdict.reasons == ()


def test_a_checkpoint_that_is_gone_is_noted(finished, replayed):
    for file in (finished / "checkpoints/step-6").iterdir():
        file.unlink()
    verdict = replayed(finished)
    assert (verdict.is_same, verdict.checkpoints) == (True, 1)
    assert verdict.notes == ("not compared: the checkpoint of step 6, which is not there any more",)


def test_a_base_that_was_changed_since_fails_the_replay_and_says_so(finished, replayed):
    change(finished / "job.json", base=json.loads((finished / "job.json").read_text())["base"] | {"hash": "0" * 64})
    verdict = replayed(finished)
    assert "then it ended succeeded, now failed (The base model in " in verdict.differences[1]


def test_a_run_that_has_not_ended_is_refused(make_run, replayed):
    with pytest.raises(Invalid, match="has not ended: only one that has succeeded or failed can be replayed"):
        replayed(make_run())


def test_a_file_that_is_gone_is_named(finished, replayed):
    (finished / "training.jsonl").unlink()
    with pytest.raises(NotFound, match=r"training\.jsonl, which it read, is not there any more"):
        replayed(finished)
    assert checkpoints(finished)
