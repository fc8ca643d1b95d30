import pytest

from milepost.training.plan import Plan
from tests.training.conftest import HYPERPARAMETERS


def plan(examples=10, seed=7, **given):
    given = {"n_epochs": 1, "batch_size": 1, "learning_rate": 1.0, "warmup_ratio": 0.2} | given
    return Plan(HYPERPARAMETERS.model_copy(update=given), seed, examples)


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("cosine", [0.5, 1.0, 1.0, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060]),
        ("constant", [0.5] + [1.0] * 9),
    ],
)
def test_the_rate_rises_and_then_follows_its_schedule(scheduler, rates):
    found = plan(lr_scheduler=scheduler)
    assert [found.learning_rate(step) for step in range(1, 11)] == pytest.approx(rates, abs=1e-6)


def test_without_a_warm_up_the_first_rate_is_the_top():
    assert plan(warmup_ratio=0.0).learning_rate(1) == 1.0


def test_checkpoints_come_where_epochs_end_and_as_often_as_asked():
    assert [step for step in range(1, 21) if plan(n_epochs=2).is_checkpoint(step)] == [10, 20]
    assert [step for step in range(1, 21) if plan(n_epochs=2, checkpoint_every=4).is_checkpoint(step)] == [
        4, 8, 10, 12, 16, 20,
    ]  # fmt: skip


def test_what_is_dropped_depends_on_all_of_the_seed_and_on_the_step():
    seeds = {plan(seed=seed).dropout_seed(step) for seed in (7, 7 + (1 << 30)) for step in (1, 2, 3)}
    assert len(seeds) == 6
    assert plan().dropout_seed(3) == plan().dropout_seed(3)
    assert all(0 <= seed < 2**32 for seed in seeds)
