import pytest
import typer
from typer.testing import CliRunner

from milepost.cli.pull import models, pull

app = typer.Typer()
app.command()(pull)
app.command()(models)


@pytest.fixture
def run(tmp_path):
    return lambda *words: CliRunner().invoke(app, [*words, "--bases-dir", str(tmp_path / "bases")])


def test_a_base_is_pulled_and_listed(run):
    pulled = run("pull", "tiny-random-llama")
    assert pulled.exit_code == 0
    assert pulled.stdout.startswith("tiny-random-llama  102,976 parameters, context 2,048, ")
    assert "tiny-random-llama" in run("models").stdout


def test_an_empty_cache_says_what_to_pull(run):
    listed = run("models")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "milepost pull smollm2-135m-instruct" in listed.stderr


def test_a_path_is_a_folder_and_its_name_the_bases(run, tiny_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_base.parent)
    assert run("pull", "./tiny-random-llama").stdout.startswith("tiny-random-llama  102,976 parameters")
    missing = run("pull", "./nothing")
    assert (missing.exit_code, str(missing.exception)) == (1, f"There is no folder {tiny_base.parent / 'nothing'}")


def test_a_template_can_be_given(run, tiny_base, tmp_path):
    template = tmp_path / "other.jinja"
    template.write_text((tiny_base / "chat_template.jinja").read_text() + "{# mine #}")
    pulled = run("pull", "mine", "--from", str(tiny_base), "--chat-template", str(template))
    assert pulled.exit_code == 0
    assert (tmp_path / "bases/mine/chat_template.jinja").read_text().endswith("{# mine #}")


def test_a_local_folder_is_pulled_under_the_name_given(run, tiny_base):
    assert run("pull", "mine", "--from", str(tiny_base)).exit_code == 0
    assert "mine" in run("models").stdout
