import contextlib
import fcntl
import json
import shutil
import threading

import pytest

from milepost.training.checkpointing import Facts, State, newest_state, save_state
from milepost.training.directory import Directory, held
from milepost.training.loop import Trainer, _first_state
from milepost.training.run import main, run_task
from tests.training.conftest import chats
from tests.training.reading import checkpoints, events, outputs, result


def abandon(run, after):
    """Train some steps and go without a word, as a killed process does."""
    with contextlib.suppress(GeneratorExit), held(run) as directory:
        trainer = Trainer(directory, newest_state(run) or _first_state(directory))
        trainer.say_how()
        for step in trainer.steps_left():
            if step > after:
                return
            trainer.take(step)


@pytest.fixture
def undisturbed(make_run):
    run = make_run("undisturbed", validation=chats(9, seed=5))
    main(run)
    return run


@pytest.mark.parametrize("after", [0, 1, 5, 6, 8, 11, 12])
def test_a_run_killed_after_a_step_ends_with_the_same_bytes(make_run, undisturbed, after):
    run = make_run("killed", validation=chats(9, seed=5))
    abandon(run, after)
    with (run / "events.jsonl").open("ab") as log:
        log.write(b'{"child_seq": 99, "at": 17')  # a torn last line
    assert main(run) == 0
    assert outputs(run) == outputs(undisturbed)


def test_a_run_killed_many_times_ends_with_the_same_bytes(make_run, undisturbed):
    run = make_run("killed", validation=chats(9, seed=5))
    for after in (2, 3, 3, 7, 10):
        abandon(run, after)
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_run_that_began_on_a_gpu_does_not_go_on_without_it(make_run):
    run = make_run()
    save_state(run, State(Facts(step=0, seq=0, dtype="float32", device="cuda:99"), {}))
    main(run)
    failed = result(run)
    assert failed["outcome"] == "failed"
    assert failed["error"]["message"].startswith("It is to compute on cuda:99, since the job began there, but torch ")


def test_a_state_tells_where_training_began(make_run):
    run = make_run()
    abandon(run, 5)
    state = newest_state(run)
    assert (state.facts.step, state.facts.device) == (5, "cpu")


def test_a_damaged_state_is_passed_over_for_the_one_before(make_run, undisturbed):
    run = make_run("killed", validation=chats(9, seed=5))
    abandon(run, 11)
    steps = sorted(int(folder.name.removeprefix("step-")) for folder in (run / "state").iterdir())
    assert len(steps) == 2
    file = run / f"state/step-{steps[-1]}/state.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    main(run)
    assert outputs(run) == outputs(undisturbed)
    [notice] = (json.loads(line) for line in (run / "notices.jsonl").read_bytes().splitlines())
    assert notice["level"] == "warn"
    assert notice["message"] == (
        f"A saved state is damaged, and not used: state/.step-{steps[-1]}.damaged-1 has not the bytes that its "
        "MANIFEST.json promises. Training goes on from the state before it"
    )


def test_damaged_states_that_are_all_there_is_begin_the_run_anew(make_run, undisturbed):
    run = make_run("killed", validation=chats(9, seed=5))
    abandon(run, 11)
    for manifest in (run / "state").glob("step-*/MANIFEST.json"):
        manifest.write_bytes(b"\0" * 100)
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_events_behind_zeros_are_told_anew_and_no_state_after_them_is_used(make_run, undisturbed):
    run = make_run("killed", validation=chats(9, seed=5))
    abandon(run, 5)
    log = run / "events.jsonl"
    first, second, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + b"\0" * len(second) + b"".join(rest))
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_whole_checkpoint_is_not_written_again(make_run):
    run = make_run()
    abandon(run, 8)
    shutil.rmtree(run / "state")
    file = run / "checkpoints/step-6/adapter_model.safetensors"
    before = file.stat()
    main(run)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_checkpoint_is_published_again_with_the_bytes_it_had(make_run):
    run = make_run()
    abandon(run, 8)
    shutil.rmtree(run / "state")
    file = run / "checkpoints/step-6/adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\0")
    main(run)
    assert file.read_bytes() == content


def want(run, wanted):
    (run / "control.json").write_text(json.dumps({"wanted": wanted}))


@pytest.mark.parametrize("after", [0, 3, 6])
def test_a_run_that_is_to_stop_ends_with_its_state_saved_and_no_checkpoint_more(make_run, undisturbed, after):
    run = make_run("told", validation=chats(9, seed=5))
    abandon(run, after)
    want(run, "stop")
    assert main(run) == 0
    assert result(run)["outcome"] == "stopped"
    want(run, "run")
    main(run)
    assert outputs(run) == outputs(undisturbed)


class PausedAfter(Directory):
    """Wants to be paused once it has told of a step; its first event tells how it trains."""

    step = 0

    def interruption(self):
        if self.seq == 1001 + self.step:
            want(self.path, "pause")
        return super().interruption()


def pause_after(run, step):
    with (run / "events.jsonl").open("a+b") as log:
        directory = PausedAfter(run, log)
        directory.step = step
        assert run_task(directory) == 0


@pytest.mark.parametrize("after", [1, 3, 5, 8, 11])
def test_a_paused_run_leaves_one_checkpoint_more_and_goes_on_to_the_same_bytes(make_run, undisturbed, after):
    run = make_run("paused", validation=chats(9, seed=5))
    pause_after(run, after)
    assert (result(run)["outcome"], result(run)["step"]) == ("paused", after)
    extra = {name: content for name, content in checkpoints(run).items() if name.split("/")[1] == f"step-{after}"}
    assert len(extra) == 4
    want(run, "run")
    main(run)
    told, ended, published = outputs(run)
    assert extra.items() <= published.items()
    assert (told, ended, {n: c for n, c in published.items() if n not in extra}) == outputs(undisturbed)


def test_a_pauses_checkpoint_has_the_metrics_that_were_told_of_its_step(make_run):
    run = make_run(validation=chats(9, seed=5))
    pause_after(run, 10)
    told = next(event["data"] for event in events(run) if event["data"].get("step") == 10)
    found = json.loads((run / "checkpoints/step-10/metrics.json").read_text())
    assert (found["step"], found["final"], found["epoch"]) == (10, False, pytest.approx(10 / 6))
    measured = {key: value for key, value in found["metrics"].items() if value is not None}
    assert measured == {key: value for key, value in told.items() if key != "total_steps"}
    assert {"train_loss", "valid_loss"} <= set(measured)


def test_a_run_killed_while_it_paused_publishes_its_last_saved_state(make_run, undisturbed):
    """Started again with the pause still wanted: the metrics of a step that this process has not taken are known."""
    run = make_run("paused", validation=chats(9, seed=5))
    abandon(run, 8)
    saved = newest_state(run).facts.step
    want(run, "pause")
    main(run)
    assert (result(run)["outcome"], result(run)["step"]) == ("paused", saved)
    metrics = json.loads((run / f"checkpoints/step-{saved}/metrics.json").read_text())["metrics"]
    assert (metrics["step"], metrics["train_loss"] > 0) == (saved, True)
    want(run, "run")
    main(run)
    told, ended, published = outputs(run)
    expected = outputs(undisturbed)
    assert (told, ended) == expected[:2]
    assert expected[2].items() <= published.items()


def test_a_pause_where_an_epoch_ended_makes_no_second_checkpoint(make_run, undisturbed):
    run = make_run("paused", validation=chats(9, seed=5))
    pause_after(run, 6)
    assert {name.split("/")[1] for name in checkpoints(run)} == {"step-6"}
    want(run, "run")
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_pause_before_the_first_step_leaves_no_checkpoint(make_run, undisturbed):
    run = make_run("paused", validation=chats(9, seed=5))
    want(run, "pause")
    main(run)
    assert (result(run)["outcome"], result(run)["step"], checkpoints(run)) == ("paused", 0, {})
    want(run, "run")
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_lease_that_has_run_out_ends_the_run(make_run):
    run = make_run()
    (run / "control.json").write_text(json.dumps({"lease_until": 1.0}))
    main(run)
    assert (result(run)["outcome"], result(run)["step"]) == ("stopped", 0)


def test_a_lease_lasts_for_so_long_as_it_says_whatever_the_time_of_day(make_run, undisturbed):
    run = make_run("leased", validation=chats(9, seed=5))
    (run / "control.json").write_text(json.dumps({"lease_until": 1.0, "lease_s": 600.0}))
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_finished_run_is_left_as_it_is(make_run, undisturbed):
    before = {file: file.stat().st_mtime_ns for file in (undisturbed / "checkpoints").rglob("*")}
    assert main(undisturbed) == 0
    assert {file: file.stat().st_mtime_ns for file in (undisturbed / "checkpoints").rglob("*")} == before


def test_two_processes_never_run_in_one_directory(make_run):
    run = make_run()
    with (run / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(run) == 3
    assert not (run / "result.json").exists()


def test_a_look_at_the_lock_does_not_turn_the_child_away(make_run):
    """Who asks whether a child lives holds the lock for a moment."""
    run = make_run()
    with (run / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (lock.fileno(), fcntl.LOCK_UN)).start()
        assert main(run) == 0


def test_only_two_states_are_kept(make_run):
    run = make_run()
    main(run)
    assert sorted(folder.name for folder in (run / "state").iterdir()) == ["step-10", "step-12"]
    assert events(run)
    assert checkpoints(run)
