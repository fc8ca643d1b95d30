"""The ways in of `milepost sql` against a live server of ours on a socket: flags, formats, exit codes, prompt, Python."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import milepost
from milepost.cli.prompt import interact
from milepost.cli.rows import Format
from milepost.cli.sql import Asked
from milepost.sql.session import Session
from tests.cli.test_sql import milepost_sql
from tests.sql.conftest import FakeOpenAI


@pytest.fixture
def fake() -> FakeOpenAI:
    return FakeOpenAI()


@pytest.fixture
def url(fake) -> Iterator[str]:
    """The small OpenAI of tests/sql, on a socket."""
    import httpx2

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked = httpx2.Request(self.command, f"http://x{self.path}", content=body, headers=dict(self.headers))
            given = fake.answer(asked)
            self.send_response(given.status_code)
            for name in ("content-type", "retry-after-ms", "x-request-id"):
                if name in given.headers:
                    self.send_header(name, given.headers[name])
            self.send_header("content-length", str(len(given.content)))
            self.end_headers()
            self.wfile.write(given.content)

        do_GET = do_POST = do_DELETE = do  # noqa: N815 (http.server's names)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()


@pytest.fixture
def run(url, tmp_path):
    return lambda *args, **environ: milepost_sql(
        *args, home=tmp_path, OPENAI_BASE_URL=url, OPENAI_API_KEY="sk-x", **environ
    )


def test_markdown_and_parquet(run, tmp_path):
    done = run("SELECT 'a|b' AS x, NULL AS y", "--format", "markdown")
    assert done.stdout == "| x | y |\n| --- | --- |\n| a\\|b | NULL |\n"
    path = tmp_path / "jobs.parquet"
    done = run("SELECT id, trained_tokens AS n FROM openai.fine_tuning.jobs", "--format", "parquet", "-o", str(path))
    assert done.returncode == 0
    done = run(f"SELECT max(n), count(*) FROM '{path}'", "--format", "csv")
    assert done.stdout == "max(n),count_star()\n3,3\n"


def test_a_write_names_its_host_and_a_dry_run_sends_nothing(run, url, fake):
    insert = "INSERT INTO openai.fine_tuning.jobs (model, training_file) VALUES ('b', 'f')"
    done = run(insert, "--dry-run", "--format", "jsonl")
    assert json.loads(done.stdout) == {
        "method": "POST",
        "url": f"{url}/fine_tuning/jobs",
        "body": '{"model":"b","training_file":"f"}',
    }
    assert fake.requests == []
    done = run(insert, "--format", "jsonl")
    assert f"INSERT 1 row: POST /fine_tuning/jobs at {url}\n" in done.stderr
    assert json.loads(done.stdout)["id"] == "new-1"


def test_read_only_and_all(run, fake):
    done = run("DELETE FROM openai.files.files", "--read-only")
    assert (done.returncode, "read-only" in done.stderr) == (2, True)
    done = run("DELETE FROM openai.files.files")
    assert (done.returncode, "hint: add LIMIT 2, or --all" in done.stderr) == (2, True)
    assert run("DELETE FROM openai.files.files", "--all").returncode == 0
    assert fake.lists["/v1/files"] == []


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-9'", 3),
        (
            "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id IN ('ftjob-9', 'ftjob-1') ON ERROR CONTINUE",
            4,
        ),
        ("AWAIT TIMEOUT 0 SELECT id FROM openai.files.files WHERE bytes > 99999999", 5),
        ("SELECT", 2),
    ],
)
def test_exit_codes(run, sql, code):
    done = run(sql, "--format", "csv")
    assert (done.returncode, "error: " in done.stderr) == (code, True)
    assert done.stdout == ("id\nftckpt_ftjob-1_2\nftckpt_ftjob-1_1\n" if code == 4 else "")


def test_a_429_is_shown_and_waited_out(run, fake):
    answer, left = fake.answer, [1]

    def busy(request):
        import httpx2

        if left:
            left.pop()
            return httpx2.Response(
                429, json={"error": {"message": "slow"}}, headers={"retry-after-ms": "50", "x-request-id": "req_9"}
            )
        return answer(request)

    fake.answer = busy
    done = run("SELECT count(*) AS n FROM openai.files.files", "--format", "csv")
    assert done.stdout == "n\n2\n"
    assert "openai: 429, every request waits 0.1 s (request req_9)\n" in done.stderr


def test_a_database_keeps_views(run, tmp_path):
    path = str(tmp_path / "my.duckdb")
    assert (
        run(
            "CREATE VIEW done AS SELECT id FROM openai.fine_tuning.jobs WHERE status = 'succeeded'", "--database", path
        ).returncode
        == 0
    )
    assert run("SELECT count(*) AS n FROM done", "--database", path, "--format", "csv").stdout == "n\n3\n"


def test_the_dialect_is_chosen(run):
    assert run("SELECT 7 / 2 AS x", "--dialect", "sqlite", "--format", "csv").stdout == "x\n3\n"
    assert run("SELECT 7 / 2 AS x", "--format", "csv").stdout == "x\n3.5\n"


def test_providers_of_a_file(run, tmp_path, url):
    config = tmp_path / ".config" / "milepost"
    config.mkdir(parents=True)
    (config / "providers.toml").write_text(f'[prod]\nurl = "{url}"\nkey_env = "PROD_KEY"\n')
    done = run("SELECT count(*) AS n FROM prod.fine_tuning.jobs", "--format", "csv", PROD_KEY="k")
    assert done.stdout == "n\n3\n"


def test_a_reader_that_has_enough_ends_the_requests(url, tmp_path, fake):
    fake.lists["/v1/files"] = [{"id": f"file-{number}", "filename": "x" * 1000} for number in range(100_000)]
    command = [sys.executable, "-m", "milepost", "sql", "SELECT * FROM openai.files.files", "--format", "csv"]
    environ = {"HOME": str(tmp_path), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k", "PATH": ""}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        head = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert head.startswith("id,bytes,created_at")
    assert (process.returncode, said) == (1, f"openai: {url}\n")
    assert len(fake.requests) < 500


def test_watch_asks_again_until_it_is_interrupted(url, tmp_path, fake):
    command = [
        sys.executable,
        "-m",
        "milepost",
        "sql",
        "SELECT count(*) AS n FROM openai.files.files",
        "--watch",
        "0.01s",
        "--format",
        "csv",
    ]
    environ = {"HOME": str(tmp_path), "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k", "PATH": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert lines == ["n\n", "2\n"] * 3
    assert process.returncode != 0


@pytest.fixture
def type_at_the_prompt(fake, tmp_path):
    async def typed(text: str) -> None:
        from prompt_toolkit.input import create_pipe_input
        from prompt_toolkit.output import DummyOutput

        asked = Asked({}, Format.CSV, None, "duckdb", all_rows=False, dry_run=False)
        with create_pipe_input() as keys:
            keys.send_text(text)
            async with asyncio.timeout(20):
                await interact(
                    Session({"openai": fake.provider()}), asked, tmp_path / "history", input=keys, output=DummyOutput()
                )

    return typed


async def test_the_prompt_takes_many_lines_and_keeps_them(type_at_the_prompt, tmp_path, capsys):
    await type_at_the_prompt("SELECT count(*) AS n\rFROM openai.files.files;\rSELCT 1;\rSELECT 2 AS two;\rexit\r")
    said = capsys.readouterr()
    assert said.out == "n\n2\ntwo\n2\n"
    assert "error: `SELCT` begins no statement" in said.err
    assert "+SELECT count(*) AS n\n+FROM openai.files.files;" in (tmp_path / "history").read_text()


async def test_an_interrupt_ends_the_statement_and_not_the_prompt(type_at_the_prompt, fake, capsys):
    answer = fake.answer
    fake.answer = lambda request: signal.raise_signal(signal.SIGINT) or answer(request)
    before = signal.getsignal(signal.SIGINT)
    await type_at_the_prompt("SELECT count(*) FROM openai.files.files;\rSELECT 2 AS two;\rexit\r")
    said = capsys.readouterr()
    assert (said.out, "Interrupted" in said.err) == ("two\n2\n", True)
    assert signal.getsignal(signal.SIGINT) is before


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def environ(url, tmp_path, monkeypatch):
    for name, value in {
        "HOME": str(tmp_path),
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": "k",
        "XDG_CONFIG_HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)


def test_query_gives_what_one_works_with(environ):
    found = milepost.query(
        "SELECT id, hyperparameters, method FROM openai.fine_tuning.jobs WHERE id = '{{ id }}'", id="ftjob-2"
    )
    hyperparameters = {"batch_size": "auto", "learning_rate_multiplier": None, "n_epochs": 3}
    assert found.dicts()[0]["hyperparameters"] == hyperparameters
    assert found.columns == ("id", "hyperparameters", "method")
    assert len(found) == 1
    assert found.arrow().column("id").to_pylist() == ["ftjob-2"]
    assert found.pandas()["id"].tolist() == ["ftjob-2"]
    assert found.polars()["id"].to_list() == ["ftjob-2"]


HOW_TO = Path(__file__).parents[2] / "docs/how-to/sql-from-scripts-and-python.md"


def test_the_python_of_the_documentation_runs(environ, url, monkeypatch):
    monkeypatch.setenv("MILEPOST_URL", url)
    monkeypatch.setenv("MILEPOST_API_KEY", "k")
    [block] = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["found"].dicts() == [{"id": "ftjob-1", "status": "succeeded"}]


def test_the_providers_of_the_documentation_are_read(run, tmp_path):
    [block] = re.findall(r"```toml\n(.*?)```", HOW_TO.read_text(), re.DOTALL)
    config = tmp_path / ".config" / "milepost"
    config.mkdir(parents=True)
    (config / "providers.toml").write_text(block)
    shown = run("SHOW PROVIDERS", "--format", "csv").stdout
    assert "\nprod,https://prod.example/v1\n" in shown
    assert "\nclaude,the anthropic SDK's own address\n" in shown


async def test_query_async_and_query_where_a_loop_runs(environ):
    found = await milepost.query_async("SELECT count(*) AS n FROM openai.fine_tuning.jobs")
    assert found.dicts() == [{"n": 3}]
    assert milepost.query("SELECT count(*) AS n FROM openai.files.files").dicts() == [{"n": 2}]


def test_query_of_no_rows_keeps_its_columns(environ):
    found = milepost.query("SELECT id, bytes FROM openai.files.files WHERE bytes < 0")
    assert (found.columns, found.dicts(), found.arrow().column_names) == (("id", "bytes"), [], ["id", "bytes"])


def test_query_of_a_change_gives_the_answers(environ):
    found = milepost.query("EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-1'")
    assert found.dicts()[0]["status"] == "cancelled"
