import json
import shutil

import pytest
import typer
from typer.testing import CliRunner

from milepost.cli.replay import replay
from milepost.errors import Invalid, NotFound
from milepost.training.run import main
from tests.training.conftest import make_run

__all__ = ["make_run"]

app = typer.Typer()
app.command()(replay)


@pytest.fixture
def data(make_run, tmp_path):
    """A data folder with one finished job, as far as a replay looks at it."""
    run = make_run(hyperparameters={"n_epochs": 1})
    main(run)
    there = tmp_path / "data/runs/ftjob-abc/train"
    shutil.copytree(run, there)
    return tmp_path / "data"


def run(data, job="ftjob-abc"):
    return CliRunner().invoke(app, [job, "--data", str(data)])


def test_the_same_is_said_in_a_line_and_ends_with_0(data):
    ended = run(data)
    assert (ended.exit_code, ended.stdout) == (0, "same: 7 events, 1 checkpoint with 28 tensors\n")


def test_a_difference_is_said_with_its_reason_and_ends_with_1(data):
    file = data / "runs/ftjob-abc/train/job.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": 8}))
    ended = run(data)
    first, second, third = ended.stdout.splitlines()
    assert ended.exit_code == 1
    assert first.startswith("different: step 1: train_loss was ")
    assert second.startswith("different: checkpoint of step 6: tensor ")
    assert third == "reason: job.json is not the one that the job ran with: it was changed since"


@pytest.mark.parametrize("job", ["ftjob-xyz", "../ftjob-abc", "ftjob-abc/../ftjob-abc", ""])
def test_a_job_that_is_not_there_is_refused(data, job):
    assert isinstance(run(data, job).exception, NotFound)


def test_a_job_that_has_not_ended_is_refused(data):
    (data / "runs/ftjob-abc/train/result.json").unlink()
    assert isinstance(run(data).exception, Invalid)
