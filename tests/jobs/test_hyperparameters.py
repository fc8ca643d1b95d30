import pytest

from milepost.jobs.hyperparameters import auto_batch_size, auto_epochs, resolve
from milepost.resources.methods import SupervisedHyperparameters
from tests.store.fixtures import BASE

AUTO = SupervisedHyperparameters()


@pytest.mark.parametrize(
    ("examples", "epochs"), [(1, 25), (10, 10), (33, 3), (34, 3), (80, 3), (101, 3), (8333, 3), (8334, 2), (30_000, 1)]
)
def test_epochs_follow_the_cookbook(examples: int, epochs: int) -> None:
    assert auto_epochs(examples) == epochs


@pytest.mark.parametrize(
    ("examples", "batch_size"), [(0, 1), (10, 1), (64, 2), (256, 8), (400, 8), (4000, 8), (6500, 13), (200_000, 256)]
)
def test_batches_are_small_for_few_examples_and_a_share_of_many(examples: int, batch_size: int) -> None:
    assert auto_batch_size(examples) == batch_size


def test_auto_becomes_numbers_with_reasons() -> None:
    resolved = resolve(AUTO, 400, BASE)
    assert resolved.shown.model_dump() == {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0}
    assert resolved.reason == (
        "Hyperparameters for 400 examples: n_epochs=3 (auto: so that 100 to 25,000 examples are seen), "
        "batch_size=8 (auto: up to 8, with 32 steps an epoch or more), "
        "learning_rate_multiplier=1 (auto: the base rate as it is). "
        "The learning rate is 0.001: 1 times 0.001, the rate for LoRA of rank 16 on a base of 100,000 parameters"
    )


def test_the_multiplier_multiplies_and_is_never_the_rate_itself() -> None:
    asked = SupervisedHyperparameters(n_epochs=2, batch_size=4, learning_rate_multiplier=0.5)
    resolved = resolve(asked, 400, BASE)
    assert (resolved.run.n_epochs, resolved.run.batch_size, resolved.run.learning_rate) == (2, 4, 0.0005)
    assert resolved.shown.learning_rate_multiplier == 0.5


@pytest.mark.parametrize(("parameters", "rate"), [(135_000_000, 1e-3), (1_500_000_000, 4e-4), (8_000_000_000, 2e-4)])
def test_larger_bases_get_a_lower_rate(parameters: int, rate: float) -> None:
    assert resolve(AUTO, 400, BASE.model_copy(update={"parameters": parameters})).run.learning_rate == rate


def test_examples_are_no_longer_than_the_base_can_read() -> None:
    assert resolve(AUTO, 400, BASE).run.max_length == 512
