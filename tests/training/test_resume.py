import contextlib
import fcntl
import json
import shutil
import threading

import pytest

from milepost.training.checkpointing import newest_state
from milepost.training.directory import held
from milepost.training.loop import Trainer, _first_state
from milepost.training.run import main
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


def test_a_damaged_state_is_passed_over_for_the_one_before(make_run, undisturbed):
    run = make_run("killed", validation=chats(9, seed=5))
    abandon(run, 11)
    steps = sorted(int(folder.name.removeprefix("step-")) for folder in (run / "state").iterdir())
    assert len(steps) == 2
    file = run / f"state/step-{steps[-1]}/state.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    assert newest_state(run).facts.step == steps[0]
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


@pytest.mark.parametrize(("wanted", "outcome"), [("stop", "stopped"), ("pause", "paused")])
def test_what_control_wants_ends_the_run_with_its_state_saved(make_run, undisturbed, wanted, outcome):
    run = make_run("told", validation=chats(9, seed=5))
    abandon(run, 3)
    (run / "control.json").write_text(json.dumps({"wanted": wanted}))
    assert main(run) == 0
    assert result(run)["outcome"] == outcome
    (run / "control.json").write_text(json.dumps({"wanted": "run"}))
    main(run)
    assert outputs(run) == outputs(undisturbed)


def test_a_lease_that_has_run_out_ends_the_run(make_run):
    run = make_run()
    (run / "control.json").write_text(json.dumps({"lease_until": 1.0}))
    main(run)
    assert (result(run)["outcome"], result(run)["step"]) == ("stopped", 0)


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
