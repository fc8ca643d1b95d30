import json
import shutil
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from milepost.cli.check import check

app = typer.Typer()
app.command()(check)


def chats(count: int) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": f"Which is {n}?"}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(count)
    ]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("MILEPOST_DEFAULT_BASE", raising=False)
    (tmp_path / "bases").mkdir()

    def invoke(*words: str):
        return CliRunner().invoke(app, [*words, "--bases-dir", str(tmp_path / "bases"), "--no-measure"])

    return invoke


@pytest.fixture
def write(tmp_path):
    def to(name: str, *lines: object) -> str:
        path = tmp_path / name
        path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
        return str(path)

    return to


def test_a_good_file_ends_with_zero_and_says_what_is_in_it(run, write):
    shown = run(write("train.jsonl", *chats(12)))
    assert shown.exit_code == 0
    assert "train.jsonl: 12 examples, fine-tune-chat (for supervised)" in shown.stdout
    assert "✓ Every line can be trained on" in shown.stdout
    assert "milepost pull smollm2-135m-instruct" in " ".join(shown.stdout.split())


def test_bad_lines_are_told_with_what_mends_them_and_the_code_is_two(run, write):
    shown = run(write("train.jsonl", *chats(10), "{'messages': []}", {"messages": [{"role": "gpt", "content": "x"}]}))
    assert shown.exit_code == 2
    assert "✗ 2 lines cannot be trained on" in shown.stdout
    assert "line 11" in shown.stdout
    assert "→ This is Python, not JSON" in shown.stdout
    assert '→ Write "role": "assistant"' in shown.stdout


def test_as_many_bad_lines_are_shown_as_asked_for(run, write):
    shown = run(write("train.jsonl", *["oops"] * 30), "--show", "2")
    assert shown.stdout.count("→ Write one JSON object a line") == 2
    assert "… and 28 more" in shown.stdout


def test_json_is_the_report_as_files_have_it(run, write):
    shown = run(write("train.jsonl", *chats(10), "oops"), "--json")
    report = json.loads(shown.stdout)
    assert (shown.exit_code, report["object"], report["bad_lines"]) == (2, "file.report", 1)


def test_the_overlap_with_a_validation_file_is_told(run, write):
    shown = run(write("train.jsonl", *chats(10)), "--validation", write("valid.jsonl", *chats(3)))
    assert "3 of 3 validation examples are trained on" in shown.stdout


def test_bad_lines_of_the_validation_file_are_told_too(run, write):
    shown = run(write("train.jsonl", *chats(10)), "--validation", write("valid.jsonl", *chats(3), "oops"))
    assert shown.exit_code == 2
    assert "✓ Every line can be trained on" in shown.stdout
    assert "✗ 1 line of the validation file cannot be used" in shown.stdout


def test_a_method_holds_the_file_to_its_format(run, write):
    shown = run(write("train.jsonl", *chats(10)), "--method", "dpo")
    assert shown.exit_code == 2
    assert "which is not that of the method dpo" in " ".join(shown.stdout.split())


def test_tokens_and_the_forecast_are_of_the_model_that_was_named(run, write, tmp_path, tiny_base):
    shutil.copytree(tiny_base, tmp_path / "bases" / "tiny-random-llama")
    shown = run(write("train.jsonl", *chats(12)), "--model", "tiny-random-llama")
    assert "(tiny-random-llama), of which" in shown.stdout
    assert "96 steps" in shown.stdout  # eight epochs of twelve examples, one a step


def test_a_model_that_is_not_there_is_refused_with_the_pull_to_run(run, write):
    refused = run(write("train.jsonl", *chats(12)), "--model", "nowhere/nothing")
    assert "milepost pull nowhere/nothing" in str(refused.exception)


def test_a_file_that_is_not_there_is_refused(run):
    assert "No such file" in str(run("/nowhere/train.jsonl").exception)


def test_checking_imports_no_torch(write, tmp_path, tiny_base):
    shutil.copytree(tiny_base, tmp_path / "bases" / "tiny-random-llama")
    path = write("train.jsonl", *chats(12))
    code = (
        "import sys; from typer.testing import CliRunner; import typer; from milepost.cli.check import check;"
        "app = typer.Typer(); app.command()(check);"
        f"done = CliRunner().invoke(app, [{path!r}, '--model', 'tiny-random-llama', '--no-measure',"
        f" '--bases-dir', {str(tmp_path / 'bases')!r}]);"
        "print(done.exit_code, sorted({'torch', 'transformers', 'sqlalchemy', 'fastapi'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0 []\n"
