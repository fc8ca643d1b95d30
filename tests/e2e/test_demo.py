"""`milepost demo --quick` as a user runs it: a process, a report, and a second run that does not train again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

#: A user's own server and account, which the demo must leave alone.
ELSEWHERE = {
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "OPENAI_API_KEY": "sk-elsewhere",
    "MILEPOST_PORT": "9",
    "HTTP_PROXY": "http://127.0.0.1:9",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def run_demo(folder, report):
    command = [sys.executable, "-m", "milepost", "demo", "--quick", "--data", str(folder / "data")]
    return subprocess.run(
        [*command, "--report", str(folder / report)],
        env={**os.environ, **ELSEWHERE},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def first(folder):
    return run_demo(folder, "first.json")


@pytest.fixture(scope="module")
def second(folder, first):
    return run_demo(folder, "second.json")


def test_it_succeeds(first):
    assert (first.returncode, first.stderr.strip()[-2000:]) == (0, "")


def test_the_report_has_the_documented_members(first, folder):
    report = json.loads((folder / "first.json").read_text())
    assert set(report) == {"phases", "train_tokens_per_s", "checkpoints", "rows_right"}
    assert set(report["rows_right"]) == {"base", "final", "of"}
    assert [set(each) for each in report["checkpoints"]] == [
        {"model", "step_number", "ready_s", "ready_ms", "answered_while_running", "metrics"}
    ] * 3


def test_checkpoints_answer_while_the_job_runs(first, folder):
    report = json.loads((folder / "first.json").read_text())
    assert [each["step_number"] for each in report["checkpoints"]] == [10, 20, 30]
    assert report["checkpoints"][0]["answered_while_running"] is True
    *earlier, last = (each["ready_s"] for each in report["checkpoints"])
    assert last > 0
    assert all(each is None or each > 0 for each in earlier)  # on a busy machine, there before the base has answered


def test_it_prints_plain_lines_where_nothing_can_move(first):
    assert "\x1b" not in first.stdout
    assert "step 30/30" in first.stdout


def test_it_says_how_long_it_will_take_before_anything_else(first):
    assert first.stdout.startswith("By a short measurement a first run takes about ")


def test_it_ends_with_how_to_go_on(first, folder):
    ending = first.stdout.split("Go on by hand")[1]
    assert f"milepost serve --data {folder / 'data'}" in ending
    assert "export OPENAI_API_KEY=sk-proj-" in ending


def test_a_second_run_trains_nothing(second, folder):
    assert second.returncode == 0, second.stderr
    assert "it is not run again" in second.stdout
    checkpoints = [json.loads((folder / f"{name}.json").read_text())["checkpoints"] for name in ("first", "second")]
    assert [each["model"] for each in checkpoints[0]] == [each["model"] for each in checkpoints[1]]
