import pytest

from milepost.errors import Invalid
from milepost.jobs.hyperparameters import auto_batch_size, auto_epochs, resolve
from milepost.resources.methods import DpoHyperparameters, SupervisedHyperparameters
from milepost.resources.models import Shape
from milepost.store.models import Tuned
from tests.store.fixtures import BASE

AUTO = SupervisedHyperparameters()
SHAPE = Shape(lora_rank=3, lora_alpha=5.0, lora_targets=("q_proj", "v_proj"))


def tuned(shape: Shape | None = SHAPE) -> Tuned:
    return Tuned("ftckpt_a", "ft:tiny:personal::abcdefgh", "proj_a", BASE.name, BASE.hash, "c" * 64, shape)


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


def test_what_openai_has_no_word_for_is_told_as_well() -> None:
    assert resolve(AUTO, 400, BASE).further == (
        "The adapter: lora_rank=16 (auto: the usual), lora_alpha=32 (auto: twice the rank), "
        "lora_targets=down_proj+gate_proj+k_proj+o_proj+q_proj+up_proj+v_proj (auto: all linear modules of the base), "
        "lora_dropout=0 (auto: the adapter sees all of its input). "
        "Training: warmup_ratio=0.05 (auto: the rate rises in the first 5 % of the steps), "
        "lr_scheduler=linear (auto: after that the rate falls evenly to the last step), "
        "weight_decay=0 (auto: none), max_grad_norm=1 (auto: the usual), "
        "max_length=512 (auto: the 512 tokens that the base reads), "
        "on_divergence=fail (auto: rather than leave steps out). "
        "Not in use, since not asked for: early_stopping_patience, checkpoint_every, keep_checkpoints, spike_threshold"
    )


def test_of_a_base_that_reads_much_examples_are_cut_earlier_and_it_is_told() -> None:
    resolved = resolve(AUTO, 400, BASE.model_copy(update={"context_length": 8192}))
    assert "max_length=2048 (auto: at most 2,048 of the 8,192 tokens that the base reads)" in resolved.further


@pytest.mark.parametrize("asked", [AUTO, DpoHyperparameters()])
def test_every_number_is_among_the_settings(asked: SupervisedHyperparameters | DpoHyperparameters) -> None:
    settings = resolve(asked, 400, BASE).settings
    assert set(settings) == {*type(asked).model_fields, "base_learning_rate"}
    assert "auto" not in settings.values()


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
    assert resolved.further == (
        "The adapter: lora_rank=8 (as asked), lora_alpha=8 (as asked), lora_targets=q_proj+v_proj (as asked), "
        "lora_dropout=0.05 (as asked). Training: warmup_ratio=0.1 (as asked), lr_scheduler=cosine (as asked), "
        "weight_decay=0.01 (as asked), max_grad_norm=0.5 (as asked), max_length=100 (as asked), "
        "on_divergence=skip (as asked), early_stopping_patience=2 (as asked), checkpoint_every=50 (as asked), "
        "keep_checkpoints=2 (as asked), spike_threshold=2.5 (as asked)"
    )


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
    resolved = resolve(AUTO, 400, BASE, parent=tuned())
    assert (resolved.run.lora_rank, resolved.run.lora_alpha, resolved.run.lora_targets) == (None, None, None)
    assert resolved.settings["lora_targets"] == ["q_proj", "v_proj"]
    assert resolved.further.startswith(
        "The adapter: lora_rank=3 (auto: that of `ft:tiny:personal::abcdefgh`), "
        "lora_alpha=5 (auto: that of `ft:tiny:personal::abcdefgh`), "
        "lora_targets=q_proj+v_proj (auto: that of `ft:tiny:personal::abcdefgh`), lora_dropout=0 (auto: "
    )


def test_a_shape_that_cannot_be_read_is_left_to_the_training_to_tell() -> None:
    asked = SupervisedHyperparameters(lora_alpha=7.0)
    assert resolve(asked, 400, BASE, parent=tuned(shape=None)).further.startswith(
        "The adapter: lora_rank (auto: that of `ft:tiny:personal::abcdefgh`), lora_alpha=7 (as asked), lora_targets (auto"
    )


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
