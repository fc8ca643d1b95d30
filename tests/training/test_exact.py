"""The same bytes, however often the process was killed: for both methods, with dropout, wherever it happens."""

import contextlib

import pytest

from milepost.resources.methods import MethodType
from milepost.training.checkpointing import newest_state
from milepost.training.directory import held
from milepost.training.loop import Trainer, _first_state
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import events, outputs
from tests.training.test_resume import abandon

#: Long ones among them, so that a step's gradient is added up from several batches.
LINES = {MethodType.SUPERVISED: chats, MethodType.DPO: preferences}
GIVEN = {"lora_dropout": 0.2, "batch_size": 8, "n_epochs": 2, "lr_scheduler": "cosine", "weight_decay": 0.1}


def lines(method):
    found = LINES[method](20)
    for number, line in enumerate(found):
        messages = line["messages"] if method is MethodType.SUPERVISED else line["input"]["messages"]
        if number % 4:
            messages[0]["content"] = (messages[0]["content"] + " ").ljust(340, "x")
    return found


@pytest.fixture(params=[MethodType.SUPERVISED, MethodType.DPO])
def make(make_run, request):
    def make_one(name, **changes):
        validation = LINES[request.param](5, seed=5)
        given = GIVEN | {"max_length": 450} | changes.pop("hyperparameters", {})
        return make_run(
            name, method=request.param, training=lines(request.param), validation=validation, hyperparameters=given
        )

    return make_one


class Killed(BaseException):
    pass


def die_in_beat(run, beat):
    """Go at the so-manyth sign of life of the training: in the middle of adding up a step's gradient."""
    with contextlib.suppress(Killed), held(run) as directory:
        trainer = Trainer(directory, newest_state(run) or _first_state(directory))
        trainer.say_how()
        heard = directory.beat
        left = iter(range(beat, 0, -1))

        def hear(phase, **facts):
            if phase == "training" and next(left) == 1:
                raise Killed
            heard(phase, **facts)

        directory.beat = hear
        for step in trainer.steps_left():
            trainer.take(step)
        raise AssertionError("it never died")


def test_a_step_of_these_runs_has_several_batches(make):
    with held(make("run")) as directory:
        trainer = Trainer(directory, _first_state(directory))
        chosen = [trainer._training[i] for i in trainer.plan.indices(1)]
        assert len(list(trainer._method.batches(chosen))) >= 2


def test_killed_while_a_gradient_is_added_up_it_ends_with_the_same_bytes(make):
    undisturbed, killed = make("undisturbed"), make("killed")
    main(undisturbed)
    for beat in (1, 2, 2, 4, 5, 2):
        die_in_beat(killed, beat)
    assert main(killed) == 0
    assert outputs(killed) == outputs(undisturbed)


def test_killed_after_every_step_it_ends_with_the_same_bytes(make):
    undisturbed, killed = make("undisturbed"), make("killed")
    main(undisturbed)
    for after in range(7):
        abandon(killed, after)
    assert main(killed) == 0
    assert outputs(killed) == outputs(undisturbed)


def test_dropout_changes_what_is_learnt_but_not_what_is_measured_first(make):
    runs = [make(f"at-{rate}", hyperparameters={"lora_dropout": rate, "n_epochs": 1}) for rate in (0.0, 0.2)]
    for run in runs:
        main(run)
    plain, dropped = ([event["data"] for event in events(run)[1:]] for run in runs)
    assert plain[0]["train_loss"] == pytest.approx(dropped[0]["train_loss"])  # B is zero: nothing to drop yet
    assert plain[-1]["full_valid_loss"] != dropped[-1]["full_valid_loss"]
