import re

import pytest

from milepost.jobs import stories


def test_the_result_file_has_openais_columns() -> None:
    metrics = [
        {"step": 1, "total_steps": 2, "train_loss": 1.2345678, "train_mean_token_accuracy": 0.5},
        {"step": 2, "train_loss": 1.0, "train_mean_token_accuracy": 0.75, "valid_loss": 0.25,
         "valid_mean_token_accuracy": 1.0, "full_valid_loss": 0.3},
    ]  # fmt: skip
    assert stories.step_metrics(metrics) == (
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n"
        "1,1.23457,0.50000,,\n"
        "2,1.00000,0.75000,0.25000,1.00000\n"
    )


@pytest.mark.parametrize(
    ("suffix", "step", "pattern"),
    [
        (None, None, r"ft:tiny:personal::[A-Za-z0-9]{8}"),
        ("demo", None, r"ft:tiny:personal:demo:[A-Za-z0-9]{8}"),
        ("My Model_2!", 88, r"ft:tiny:personal:my-model-2:[A-Za-z0-9]{8}:ckpt-step-88"),
        ("ünï", None, r"ft:tiny:personal:uni:[A-Za-z0-9]{8}"),
        ("a:b/../c", None, r"ft:tiny:personal:a-b-c:[A-Za-z0-9]{8}"),
    ],
)
def test_names_of_checkpoints(suffix: str | None, step: int | None, pattern: str) -> None:
    assert re.fullmatch(pattern, stories.checkpoint_name("tiny", "personal", suffix, step))


def test_every_name_is_drawn_anew() -> None:
    assert stories.checkpoint_name("tiny", "personal", None, 1) != stories.checkpoint_name("tiny", "personal", None, 1)
