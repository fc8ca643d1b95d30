import pytest
import typer
from safetensors.torch import load_file
from typer.testing import CliRunner

from milepost.cli.export import export
from milepost.config import Settings
from milepost.errors import Invalid, NotFound
from milepost.jobs import ledger
from milepost.resources.jobs import JobRequest
from milepost.resources.models import Base
from milepost.store import keys, models
from milepost.store.database import open_database
from milepost.training.run import main
from tests.store.fixtures import NOW, upload
from tests.training.conftest import make_run

__all__ = ["make_run"]

app = typer.Typer()
app.command()(export)


@pytest.fixture
def settings(tiny_base, tmp_path):
    return Settings(
        data_dir=tmp_path / "data",
        bases_dir=tiny_base.parent,
        default_base="tiny-random-llama",
        bootstrap_key="sk-proj-of-the-tests-and-long-enough",
    )


@pytest.fixture
def tuned(settings, tiny_base, make_run):
    """The name of a trained checkpoint in a data folder."""
    run = make_run(hyperparameters={"n_epochs": 1})
    main(run)
    database = open_database(settings)
    key = keys.authenticate(database, keys.bootstrap(database, settings, NOW).project_key)
    base = Base.model_validate_json((tiny_base / "base.json").read_bytes())
    request = JobRequest(model=base.name, training_file=upload(database, key).id)
    job = ledger.create(database, key, request, base, NOW)
    made = ledger.announce_checkpoint(database, job.id, run / "checkpoints/step-6", NOW)
    yield made.fine_tuned_model_checkpoint
    database.close()


@pytest.fixture
def run(settings, tmp_path):
    def invoke(model, to, *words):
        folders = ["--out", str(tmp_path / "out"), "--data", str(settings.data_dir)]
        return CliRunner().invoke(app, [model, "--to", to, *folders, "--bases-dir", str(settings.bases_dir), *words])

    return invoke


def test_an_adapter_is_found_by_its_models_name(run, tuned, tmp_path):
    ended = run(tuned, "peft")
    assert (ended.exit_code, ended.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert len(load_file(tmp_path / "out/adapter_model.safetensors")) == 28


def test_a_model_is_merged_in_the_dtype_asked_for(run, tuned, tmp_path):
    assert run(tuned, "merged", "--dtype", "bfloat16").exit_code == 0
    dtypes = {tensor.dtype for tensor in load_file(tmp_path / "out/model.safetensors").values()}
    assert [str(each) for each in dtypes] == ["torch.bfloat16"]


def test_a_deleted_model_is_refused_with_the_time(run, tuned, settings, tmp_path):
    database = open_database(settings)
    project = keys.authenticate(database, settings.bootstrap_key.get_secret_value()).project_id
    models.delete(database, settings, project, tuned, NOW)
    database.close()
    ended = run(tuned, "peft")
    assert isinstance(ended.exception, NotFound)
    assert "was deleted on 2026-11-18 at " in ended.exception.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ft:nothing", "tiny-random-llama"])
def test_what_is_no_tuned_model_is_refused(run, tuned, name):
    ended = run(name, "peft")
    assert ended.exception.message.startswith(f"There is no tuned model or checkpoint `{name}` in ")


def test_an_adapter_has_no_dtype_to_choose(run, tuned):
    assert isinstance(run(tuned, "peft", "--dtype", "bfloat16").exception, Invalid)


def test_a_data_folder_that_is_not_there_is_refused(run):
    assert "There is no Milepost data in" in run("ft:x", "peft").exception.message
