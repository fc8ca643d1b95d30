"""`milepost jobs` as a person runs it, against the real API over a real socket; what jobs went through is written by hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from openai import OpenAI

from milepost.jobs import leases, ledger, stories
from milepost.resources.jobs import JobProgress, Status
from milepost.resources.runs import Outcome, Result, RunEvent
from tests.api.conftest import BASE, KEY, NOW, app, clock, database, engine, first_start, settings
from tests.api.fakes import checkpoint_folder

__all__ = ["app", "clock", "database", "engine", "first_start", "settings"]

LINE = b'{"messages":[{"role":"user","content":"Who?"},{"role":"assistant","content":"Me."}]}\n'
#: Runs the command line, then says on stderr which heavy modules were imported.
PROBE = """
import sys
from milepost.cli.main import main
try:
    main()
finally:
    heavy = {'torch', 'sqlglot', 'duckdb', 'sqlalchemy', 'fastapi', 'matplotlib'}
    print('imported', sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


@pytest.fixture
def url(app) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join()


@pytest.fixture
def client(url) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def milepost_jobs(url, tmp_path):
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        asked = {"HOME": str(tmp_path), "MILEPOST_URL": url, "MILEPOST_API_KEY": KEY, **environment}
        return subprocess.run(
            [sys.executable, "-c", PROBE, "jobs", *words],
            env=kept | asked,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def running(client, database) -> str:
    """A job that has taken three steps of four."""
    file = client.files.create(file=("train.jsonl", LINE * 12), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, seed=1)
    leases.claim(database, "me", Status.VALIDATING, NOW)
    ledger.queue(database, job.id, NOW, stories.VALIDATED)
    leases.claim(database, "me", Status.QUEUED, NOW)
    leases.heartbeat(database, job.id, "me", NOW, None, JobProgress(phase="training", step=3, total_steps=4))
    take_steps(database, job.id, 1, 2, 3)
    return job.id


def take_steps(database, job_id, *steps):
    told = [
        RunEvent(
            child_seq=1000 + step,
            at=int(NOW),
            type="metrics",
            message=f"Step {step}/4: training loss={1 / step:.2f}",
            data={"step": step, "total_steps": 4, "train_loss": 1 / step}
            | ({"full_valid_loss": 0.5} if step == 4 else {}),
        )
        for step in steps
    ]
    ledger.add_events(database, job_id, told)


@pytest.fixture
def succeeded(running, database, tmp_path) -> str:
    take_steps(database, running, 4)
    ledger.announce_checkpoint(database, running, checkpoint_folder(tmp_path, 4, final=True), NOW)
    ledger.succeed(database, running, Result(outcome=Outcome.SUCCEEDED, trained_tokens=99), NOW)
    return running


def test_jobs_are_rows_for_people_and_whole_objects_for_programs(milepost_jobs, running):
    table, whole = milepost_jobs("list"), milepost_jobs("list", "--format", "json")
    assert [running, "running", BASE, "3/4"] == [
        word for word in table.stdout.split() if word in {running, "running", BASE, "3/4"}
    ]
    assert json.loads(whole.stdout)[0]["progress"] == {
        "phase": "training", "step": 3, "total_steps": 4, "tokens_per_s": None
    }  # fmt: skip
    assert table.stderr == "1 row\nimported []\n"


def test_a_list_that_is_cut_says_so(milepost_jobs, running):
    done = milepost_jobs("events", running, "--limit", "2", "--format", "csv")
    assert [line.split(",", 2)[2] for line in done.stdout.splitlines()[1:]] == [
        "Step 2/4: training loss=0.50", "Step 3/4: training loss=0.33"
    ]  # fmt: skip
    assert "These are the latest 2 events; --limit shows more.\n" in done.stderr


def test_a_job_is_paused_resumed_and_cancelled(milepost_jobs, client, running):
    said = [
        milepost_jobs(verb, running, "--format", "csv").stdout.splitlines()[1] for verb in ("pause", "resume", "cancel")
    ]
    assert [line.split(",")[1] for line in said] == ["paused", "queued", "cancelled"]
    assert client.fine_tuning.jobs.retrieve(running).status == "cancelled"


def test_what_cannot_be_done_is_a_sentence_and_a_code(milepost_jobs, succeeded):
    refused, unknown = milepost_jobs("pause", succeeded), milepost_jobs("checkpoints", "ftjob-nobody")
    assert (refused.returncode, unknown.returncode) == (2, 2)
    assert refused.stderr.startswith(f"error: Job `{succeeded}` is succeeded and cannot be paused; it has ended.")
    assert unknown.stderr.startswith("error: Could not find fine tune: ftjob-nobody\n")


def test_a_server_that_is_not_there_is_said(milepost_jobs):
    done = milepost_jobs("list", MILEPOST_URL="http://127.0.0.1:9/v1")
    assert done.returncode == 8
    assert done.stderr.startswith("error: Cannot reach http://127.0.0.1:9/v1: ")


def test_watch_ends_with_the_jobs_outcome(milepost_jobs, client, database, running, succeeded):
    done = milepost_jobs("watch", succeeded)
    assert (done.returncode, done.stderr) == (0, "imported []\n")
    name = client.fine_tuning.jobs.retrieve(succeeded).fine_tuned_model
    assert done.stdout.splitlines()[-3:] == [
        f"✓ checkpoint · step 4 · full_valid_loss 0.5000 · {name}",
        "The job has successfully completed",
        f"succeeded · 99 tokens trained · {name}",
    ]


def test_a_job_that_was_cancelled_has_a_code_of_its_own(milepost_jobs, client, running):
    client.fine_tuning.jobs.cancel(running)
    assert milepost_jobs("watch", running).returncode == 12


def test_the_points_of_a_plot_are_rows(milepost_jobs, running):
    done = milepost_jobs("plot", running, "--format", "csv")
    assert done.stdout == "series,step,loss\ntrain_loss,1,1.0\ntrain_loss,2,0.5\ntrain_loss,3,0.3333333333333333\n"


def test_the_terminals_plot_has_a_legend_of_what_is_there(milepost_jobs, succeeded):
    lines = milepost_jobs("plot", succeeded).stdout.splitlines()
    assert lines[-1] == "⠒ train_loss   ◆ full_valid_loss   ▲ checkpoint"
    assert [line[:7] for line in lines if "┤" in line][::15] == ["1.000 ┤", "0.250 ┤"]


def test_a_picture_is_written(milepost_jobs, succeeded, tmp_path):
    pytest.importorskip("matplotlib")
    assert milepost_jobs("plot", succeeded, "--out", "loss.png").returncode == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert milepost_jobs("plot", succeeded, "--out", "loss.svg").returncode == 0
    assert "full_valid_loss" in (tmp_path / "loss.svg").read_text()


@pytest.mark.parametrize("name", ["loss.gif", "nowhere/loss.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_asked(milepost_jobs, name):
    done = milepost_jobs("plot", "ftjob-nobody", "--out", name)
    assert done.returncode == 2
    assert "nobody" not in done.stderr


def test_ctrl_c_leaves_the_job_running(url, client, running, tmp_path):
    import signal

    command = [sys.executable, "-m", "milepost", "jobs", "watch", running]
    environment = os.environ | {"HOME": str(tmp_path), "MILEPOST_URL": url, "MILEPOST_API_KEY": KEY}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as watching:
        assert watching.stdout.readline() == f"{running} · {BASE} · running\n"
        watching.send_signal(signal.SIGINT)
        said = watching.communicate(timeout=30)[1]
    assert watching.returncode == 130
    assert said.startswith("\nNo longer watching; the job goes on.")
    assert client.fine_tuning.jobs.retrieve(running).status == "running"
