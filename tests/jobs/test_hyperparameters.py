import pytest

from milepost.errors import Invalid
from milepost.jobs.hyperparameters import auto_batch_size, auto_epochs, resolve
from milepost.resources.methods import DpoHyperparameters, SupervisedHyperparameters
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


def test_preferences_have_a_lower_rate_and_a_beta() -> None:
    resolved = resolve(DpoHyperparameters(), 400, BASE)
    assert (resolved.run.learning_rate, resolved.run.beta) == (1e-4, 0.1)
    assert resolved.shown.model_dump() == {
        "n_epochs": 3,
        "batch_size": 8,
        "learning_rate_multiplier": 1.0,
        "beta": 0.1,
    }
    assert "beta=0.1 (auto: the usual). The learning rate is 0.0001: 1 times 0.0001" in resolved.reason


def test_what_else_was_asked_for_reaches_the_training_and_is_told() -> None:
    extras = {
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        "lora_rank": 8,
        "lora_alpha": 8.0,
        "lora_dropout": 0.05,
        "lora_targets": ("q_proj", "v_proj"),
        "max_length": 100,
        "early_stopping_patience": 2,
        "checkpoint_every": 50,
        "keep_checkpoints": 2,
        "on_divergence": "skip",
        "spike_threshold": 2.5,
    }
    resolved = resolve(SupervisedHyperparameters.model_validate(extras), 400, BASE, has_validation=True)
    assert {name: getattr(resolved.run, name) for name in extras} == extras
    assert resolved.shown.model_extra == extras
    assert "lora_rank=8 (as asked)" in resolved.reason
    assert "lora_targets=q_proj+v_proj (as asked)" in resolved.reason


def test_an_absolute_learning_rate_is_taken_as_it_is() -> None:
    resolved = resolve(SupervisedHyperparameters(learning_rate=3e-4), 400, BASE)
    assert resolved.run.learning_rate == 3e-4
    assert resolved.shown.learning_rate_multiplier == pytest.approx(0.3)
    assert "learning_rate_multiplier=0.3 (of the learning rate that was asked for)" in resolved.reason


def test_alpha_follows_the_rank() -> None:
    fresh = resolve(SupervisedHyperparameters(lora_rank=4), 400, BASE).run
    assert (fresh.lora_rank, fresh.lora_alpha) == (4, 8.0)
    assert (resolve(AUTO, 400, BASE).run.lora_rank, resolve(AUTO, 400, BASE).run.lora_alpha) == (16, 32.0)


def test_the_adapter_that_training_goes_on_from_has_a_shape_already() -> None:
    run = resolve(AUTO, 400, BASE, is_continued=True).run
    assert (run.lora_rank, run.lora_alpha, run.lora_targets) == (None, None, None)


@pytest.mark.parametrize(
    ("asked", "param", "words"),
    [
        ({"learning_rate": 1e-3, "learning_rate_multiplier": 2.0}, "learning_rate", "were both given"),
        ({"max_length": 513}, "max_length", "reads 512 tokens at most"),
        ({"early_stopping_patience": 1}, "early_stopping_patience", "needs a validation_file"),
    ],
)
def test_contradictions_are_refused(asked: dict[str, float], param: str, words: str) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        resolve(SupervisedHyperparameters.model_validate(asked), 400, BASE)
    assert refused.value.param == param
