"""`milepost sql` as a person runs it: another process, rows on stdout, the rest on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Runs the command line, then says on stderr which heavy modules were imported.
PROBE = """
import sys
from milepost.cli.main import main
try:
    main()
finally:
    print('imported', sorted({'torch', 'openai', 'sqlglot', 'fastapi', 'pandas'} & sys.modules.keys()), file=sys.stderr)
"""


def milepost_sql(*args: str, home: Path, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", PROBE, "sql", *args],
        env=kept | {"HOME": str(home), "COLUMNS": "80"} | environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_select_1_imports_neither_the_sdk_nor_torch_nor_a_parser(tmp_path):
    done = milepost_sql("SELECT 1 AS one", "--format", "json", home=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (0, [{"one": 1}])
    assert done.stderr == "imported []\n"


def test_show_needs_no_sdk(tmp_path):
    done = milepost_sql("SHOW METHODS IN openai.fine_tuning.job_checkpoints", "--format", "csv", home=tmp_path)
    assert (
        done.stdout == "MethodName,SQLVerb,RequiredParams\nlist_fine_tuning_job_checkpoints,SELECT,fine_tuning_job_id\n"
    )
    assert "imported ['sqlglot']" in done.stderr


CHECKPOINTS = "openai.fine_tuning.job_checkpoints"
#: Statements that need the catalog and no answer.
SENDING_NOTHING = [
    ["SHOW EXTENDED METHODS IN openai.fine_tuning.jobs LIKE 'c%'"],
    ["SHOW INSERT INTO openai.fine_tuning.jobs"],
    ["DESCRIBE EXTENDED openai.fine_tuning.jobs"],
    ["DESCRIBE EXTENDED METHOD openai.fine_tuning.jobs.create"],
    ["EXPLAIN SELECT id, status, method FROM openai.fine_tuning.jobs WHERE id IN ('a', 'b')"],
    ["EXPLAIN DELETE FROM openai.files.files WHERE bytes > 1"],
    ["SELECT id, max(bytes) FROM openai.files.files GROUP BY ALL", "--dry-run"],
    ["SELECT id, metadata FROM openai.fine_tuning.jobs LIMIT 0"],
    ["SELECT id FROM openai.fine_tuning.jobs WHERE id = 'a' AND id = 'b'"],
    [f"SELECT metrics FROM {CHECKPOINTS} WHERE fine_tuning_job_id IN (SELECT 'x' WHERE false)"],
    [f"SELECT c.id FROM (VALUES (NULL)) v(job) JOIN {CHECKPOINTS} c ON c.fine_tuning_job_id = v.job"],
]
#: Runs them one after another in one process.
EACH = """
import json, sys
from milepost.cli.main import app
for words in json.loads(sys.argv[1]):
    try:
        app(['sql', *words, '--format', 'csv'], prog_name='milepost')
    except SystemExit as ended:
        assert not ended.code, words
    assert not {'openai', 'pandas', 'pyarrow'} & sys.modules.keys(), words
print('all of them')
"""


def test_what_sends_nothing_needs_neither_the_sdk_nor_arrow_nor_a_key(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(SENDING_NOTHING)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.endswith("all of them\n"), done.stderr


ROW = "SELECT 1 AS a, NULL AS b, '' AS c, 'x,\"y' AS d, {'k': [1, 2]} AS e, DATE '2024-02-03' AS f, 2::HUGEINT AS g"
WRITTEN = {
    "json": '[\n{"a":1,"b":null,"c":"","d":"x,\\"y","e":{"k":[1,2]},"f":"2024-02-03","g":2}\n]\n',
    "jsonl": '{"a":1,"b":null,"c":"","d":"x,\\"y","e":{"k":[1,2]},"f":"2024-02-03","g":2}\n',
    "csv": 'a,b,c,d,e,f,g\n1,,"","x,""y","{""k"":[1,2]}",2024-02-03,2\n',
}


@pytest.mark.parametrize("form", list(WRITTEN))
def test_formats_keep_the_order_and_tell_null_from_the_empty_text(tmp_path, form):
    assert milepost_sql(ROW, "--format", form, home=tmp_path).stdout == WRITTEN[form]


@pytest.mark.parametrize(("form", "written"), [("json", "[]\n"), ("jsonl", ""), ("csv", "a\n")])
def test_no_rows(tmp_path, form, written):
    assert milepost_sql("SELECT 1 AS a WHERE false", "--format", form, home=tmp_path).stdout == written


def test_the_table_shows_long_values_whole(tmp_path):
    long = "x" * 300
    done = milepost_sql(f"SELECT '{long}' AS a, NULL AS b", home=tmp_path)
    assert long in done.stdout
    assert "NULL" in done.stdout
    assert "1 row\n" in done.stderr


def test_a_table_is_aligned(tmp_path):
    done = milepost_sql(
        "SELECT * FROM (VALUES (1, 'é'), (20, '日本'), (300, E'a\\nb'), (NULL, 'x')) v(n, text)", home=tmp_path
    )
    assert done.stdout == ("\n    n   text\n ───────────\n    1   é\n   20   日本\n  300   a\n        b\n NULL   x\n")


def test_from_stdin_and_from_a_file(tmp_path):
    file = tmp_path / "q.sql"
    file.write_text("SELECT '{{ name }}' AS hello -- a comment\n")
    from_file = milepost_sql("-f", str(file), "--param", "name=it's", "--format", "jsonl", home=tmp_path)
    from_stdin = milepost_sql("--format", "jsonl", home=tmp_path, stdin="SELECT 2 AS two;")
    assert (from_file.stdout, from_stdin.stdout) == ('{"hello":"it\'s"}\n', '{"two":2}\n')


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["SELEC 1"], 2, "error: `SELEC` begins no statement. Did you mean `SELECT`"),
        (["SELECT 1", "--param", "x"], 2, "error: --param wants NAME=VALUE"),
        (["-f", "/nowhere"], 2, "error: Cannot read /nowhere"),
        (["SELECT id FROM openai.fine_tuning.job"], 2, "Did you mean `jobs`"),
        (
            ["SELECT id FROM openai.fine_tuning.job_events"],
            2,
            "hint: SELECT * FROM openai.fine_tuning.job_events WHERE",
        ),
        (
            ["SELECT id FROM openai.fine_tuning.jobs"],
            2,
            "openai: https://api.openai.com/v1\nerror: The provider `openai`",
        ),
    ],
)
def test_errors_are_lines_on_stderr_and_a_code(tmp_path, args, code, says):
    done = milepost_sql(*args, home=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr


def test_local_is_the_server_that_serve_left_word_of(tmp_path):
    config = tmp_path / ".config" / "milepost"
    config.mkdir(parents=True)
    (config / "local.json").write_text('{"url": "http://127.0.0.1:9/v1", "key": "sk-x", "data_dir": "d"}')
    done = milepost_sql("SELECT id FROM local.fine_tuning.jobs", home=tmp_path)
    assert done.returncode == 3
    assert "local: http://127.0.0.1:9/v1\nerror: GET /fine_tuning/jobs: cannot reach" in done.stderr


def test_the_environment_goes_before_what_serve_left(tmp_path):
    done = milepost_sql(
        "SHOW PROVIDERS", "--format", "csv", home=tmp_path, MILEPOST_URL="http://h:1/v1", OPENAI_BASE_URL="http://o/v1"
    )
    assert done.stdout == "name,host\nopenai,http://o/v1\nopenai_admin,http://o/v1\nlocal,http://h:1/v1\n"
