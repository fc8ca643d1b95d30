"""Validation tokenises a job's files, and training reads what it kept."""

from pathlib import Path

import pytest

from milepost.modeling.template import load_chat
from milepost.resources.methods import MethodType
from milepost.resources.runs import RunSpec, Task
from milepost.training import kept
from milepost.training.data import load
from milepost.training.run import main
from tests.training.conftest import chats, preferences
from tests.training.reading import outputs, result

COMPLETIONS = [{"prompt": f"{n} and one is", "completion": f" {n + 1}"} for n in range(22)]
FILES = {
    "chats": {"training": chats(22), "validation": chats(5, seed=1)},
    "completions": {"training": COMPLETIONS},
    "preferences": {"training": preferences(22), "validation": preferences(5, seed=1), "method": MethodType.DPO},
    "chats that are cut": {"training": chats(22), "hyperparameters": {"max_length": 24}},
    "preferences that are cut": {
        "training": preferences(22),
        "method": MethodType.DPO,
        "hyperparameters": {"max_length": 40},
    },
}


@pytest.fixture
def validated(make_run, tmp_path):
    """A job that was validated, about to train on files that are gone; and what training comes to when they are there."""

    def make(files):
        (tmp_path / "undisturbed").mkdir()
        undisturbed = make_run("undisturbed/train", **files)
        assert main(undisturbed) == 0
        assert main(make_run("validate", task=Task.VALIDATE, **files)) == 0
        return make_run("train", **files), undisturbed

    return make


def kept_files(run: Path) -> list[Path]:
    return sorted((run.parent / "examples").iterdir())


def without_data(run: Path) -> Path:
    for file in run.glob("*.jsonl"):
        file.unlink()
    return run


@pytest.mark.parametrize("name", FILES)
def test_training_reads_what_validation_has_tokenised_and_comes_to_the_same_bytes(validated, name):
    run, undisturbed = validated(FILES[name])
    assert len(kept_files(run)) == 1 + ("validation" in FILES[name])
    assert main(without_data(run)) == 0
    assert outputs(run) == outputs(undisturbed)


@pytest.mark.parametrize("name", FILES)
def test_what_was_kept_is_what_the_lines_are(validated, name):
    run, _ = validated(FILES[name])
    spec = RunSpec.model_validate_json((run / "job.json").read_bytes())
    for file in filter(None, (spec.training, spec.validation)):
        chat = load_chat(Path(spec.base.path))
        assert kept.find(run, spec, file) == load(file, spec.method, chat, spec.hyperparameters.max_length)


@pytest.mark.parametrize("place", [0.5, 0.99, 0.001, 0.0])
def test_damaged_ones_are_not_used_but_made_anew(validated, place):
    run, undisturbed = validated(FILES["chats"])
    for file in kept_files(run):
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 0xFF
        file.write_bytes(content)
    assert main(run) == 0
    assert outputs(run) == outputs(undisturbed)


def test_torn_ones_are_not_used_either(validated):
    run, undisturbed = validated(FILES["chats"])
    for file, size in zip(kept_files(run), (0, 100), strict=True):
        file.write_bytes(file.read_bytes()[:size])
    assert main(run) == 0
    assert outputs(run) == outputs(undisturbed)


def test_those_of_other_lengths_are_others(validated, make_run):
    run, _ = validated(FILES["chats"])
    other = without_data(make_run("other", training=chats(22), hyperparameters={"max_length": 30}))
    assert main(other) == 1
    assert result(other)["outcome"] == "failed"
    assert main(without_data(run)) == 0
