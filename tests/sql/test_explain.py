"""EXPLAIN, SHOW and DESCRIBE: what a statement would do, and what there is."""

from __future__ import annotations

import pytest

from milepost.errors import Denied
from milepost.sql.session import Session

JOIN = (
    "SELECT j.id, max(c.step_number) FROM openai.fine_tuning.jobs j "
    "JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = j.id WHERE j.status = 'succeeded' GROUP BY 1"
)
CALLS = ("table", "request", "parameters", "pushed_down", "expected_requests")


async def lines(session, sql):
    rows = await session.execute(sql)
    return await rows.dicts()


async def test_explain_prints_the_calls_and_sends_none(session, fake):
    jobs, checkpoints, duckdb = await lines(session, f"EXPLAIN {JOIN}")
    assert [jobs[name] for name in CALLS] == [
        "openai.fine_tuning.jobs", "GET /fine_tuning/jobs", "", "", "1, and 1 more for each 100 rows",
    ]  # fmt: skip
    assert [checkpoints[name] for name in CALLS] == [
        "openai.fine_tuning.job_checkpoints",
        "GET /fine_tuning/jobs/{fine_tuning_job_id}/checkpoints",
        "fine_tuning_job_id ← j.id",
        "",
        "1 for each value of j.id, and 1 more for each 100 rows",
    ]
    assert duckdb["table"] == "DuckDB"
    assert "HASH_GROUP_BY" in duckdb["detail"].upper() or "Aggregate" in duckdb["detail"]
    assert fake.requests == []


async def test_explain_says_what_is_pushed_down(session, fake):
    line, _ = await lines(session, "EXPLAIN SELECT id FROM openai.files.files WHERE purpose = 'batch' LIMIT 5")
    assert (line["parameters"], line["pushed_down"], line["expected_requests"]) == (
        "purpose = 'batch'",
        "purpose, LIMIT 5",
        "1",
    )
    line, _ = await lines(session, "EXPLAIN SELECT id FROM openai.fine_tuning.jobs WHERE id IN ('a', 'b', 'c', 'd')")
    assert (line["request"], line["expected_requests"]) == ("GET /fine_tuning/jobs/{fine_tuning_job_id}", "4")
    assert line["parameters"] == "fine_tuning_job_id IN ('a', 'b', 'c', … 4 values)"


async def test_explain_analyze_says_what_it_took(session, fake):
    jobs, checkpoints, duckdb = await lines(session, f"EXPLAIN ANALYZE {JOIN}")
    assert (jobs["requests"], jobs["rows"]) == (1, 3)
    assert (checkpoints["requests"], checkpoints["rows"]) == (3, 3)
    assert jobs["seconds"] >= 0
    assert duckdb["seconds"] >= 0
    assert len(fake.requests) == 4


async def test_explain_of_a_write_shows_the_exact_request(session, fake):
    sql = "INSERT INTO openai.fine_tuning.jobs (model, training_file) VALUES ('b', 'f')"
    line, _ = await lines(session, f"EXPLAIN {sql}")
    assert (line["request"], line["parameters"]) == (
        "POST http://openai.test/v1/fine_tuning/jobs",
        '{"model":"b","training_file":"f"}',
    )
    read, write, _ = await lines(session, "EXPLAIN DELETE FROM openai.files.files WHERE bytes > 1")
    assert (read["request"], write["request"]) == ("GET /files", "DELETE /files/{file_id}")
    assert fake.requests == []


async def test_explain_reads_no_file_where_none_may_be_read(fake, tmp_path):
    path = tmp_path / "secret"
    path.write_text("x")
    async with Session({"openai": fake.provider()}, external_access=False) as session:
        with pytest.raises(Denied, match="Files cannot be read here"):
            await session.execute(
                f"EXPLAIN INSERT INTO openai.files.files (file, purpose) VALUES (file('{path}'), 'batch')"
            )


# --- what there is ----------------------------------------------------------------------------------------------------


async def test_show_extended_methods(session):
    rows = {row["MethodName"]: row for row in await lines(session, "SHOW EXTENDED METHODS IN openai.files.files")}
    assert rows["list_files"]["OptionalParams"] == "after string, limit integer = 10000, order asc|desc, purpose string"
    assert rows["list_files"]["Request"] == "GET /files"
    assert rows["create"]["RequiredParams"] == "file, purpose"


async def test_show_extended_resources(session):
    rows = await lines(session, "SHOW EXTENDED RESOURCES IN openai.fine_tuning LIKE 'job_e%'")
    assert rows == [
        {
            "name": "job_events",
            "id": "openai.fine_tuning.job_events",
            "verbs": "SELECT",
            "description": rows[0]["description"],
        }
    ]


async def test_describe_method(session):
    rows = await lines(session, "DESCRIBE METHOD openai.fine_tuning.jobs.create")
    assert rows[:3] == [
        {"name": "model", "type": "string", "param_type": "input_required"},
        {"name": "training_file", "type": "string", "param_type": "input_required"},
        {"name": "hyperparameters", "type": "object", "param_type": "input_optional"},
    ]
    assert rows[-1]["param_type"] == "output"
    extended = await lines(session, "DESCRIBE EXTENDED METHOD openai.batches.batches.create")
    window = next(row for row in extended if row["name"] == "completion_window" and row["param_type"] != "output")
    assert (window["param_type"], window["enum"]) == ("input_required", "24h")


async def test_describe_extended_shows_the_values_a_column_can_have(session):
    rows = {row["name"]: row for row in await lines(session, "DESCRIBE EXTENDED openai.fine_tuning.jobs")}
    assert rows["status"]["enum"] == "validating_files, queued, running, succeeded, failed, cancelled"


async def test_show_insert_into_is_a_statement_that_runs(session, fake):
    rows = await session.execute("SHOW INSERT INTO openai.vector_stores.vector_stores")
    [(text,)] = await rows.fetchall()
    assert text.startswith("INSERT INTO openai.vector_stores.vector_stores (\n  chunking_strategy,")
    rows = await session.execute("SHOW INSERT INTO openai.fine_tuning.jobs")
    [(text,)] = await rows.fetchall()
    assert text.startswith("INSERT INTO openai.fine_tuning.jobs (\n  model,\n  training_file,")
    assert text.endswith("RETURNING *;")


@pytest.mark.parametrize(
    "sql", ["SHOW INSERT INTO openai.fine_tuning.job_events", "SHOW EXTENDED METHODS IN openai.fine_tuning.nothing"]
)
async def test_what_is_not_there_is_told(session, sql):
    with pytest.raises(Exception, match="has no"):
        await session.execute(sql)
