"""The dialects, by value: what SQLite itself answers, and the first list of other tools' documentation, verbatim."""

from __future__ import annotations

import sqlite3

import pytest

from milepost.sql.session import Outcome, Rows, Session

#: With `dialect="sqlite"` each gives SQLite's value, where DuckDB gives another or none.
SAME_AS_SQLITE = [
    "7 / 2", "-7 / 2", "7 / 2.0", "7 / 0", "7.5 / 2", "10 / 4 * 2", "(1 + 2) / 2", "7 % 0", "-7 % 3", "sum(n) / count(*)",
    "max(n) / 2", "n / 2", "r / 2", "n / r", "length(s) / 2", "CAST(7 AS REAL) / 2", "CASE WHEN 1 THEN 7 END / 2",
    "'ABC' LIKE 'abc'", "'abc' NOT LIKE 'AB%'", "'abc' GLOB 'A*'", "CAST(3.7 AS INTEGER)", "CAST(-3.7 AS INTEGER)",
    "CAST('3.7' AS INTEGER)", "CAST('12abc' AS INTEGER)", "CAST('abc' AS INTEGER)", "CAST(NULL AS INTEGER)", "CAST(1e3 AS INTEGER)",
    "max(1, 2)", "max(1, NULL)", "min(3, 2, 1)", "typeof(1)", "typeof(1.5)", "typeof('a')", "typeof(NULL)", "typeof(n)", "typeof(r)", "typeof(s)",
    "lower('ÉA')", "upper('éa')", "1 IS 1", "NULL IS NULL", "1 IS NOT 2", "1 == 1", "total(n)", "ifnull(NULL, 2)", "iif(1 > 0, 'a', 'b')",
    "instr('hello', 'l')", "substr('hello', 0, 2)", "substr('hello', -3)", "format('%d-%s', 1, 'x')", "printf('%.2f', 1.5)", "round(2.5)", "round(2.345, 2)",
    "unixepoch('2020-01-01')", "count(*) FILTER (WHERE s LIKE 'A')", "group_concat(s, '-')", "coalesce(NULL, 1)", "nullif(1, 1)", "abs(-3)", "hex('a')",
    "char(65)", "unicode('A')", "trim('  a ')", "replace('aa', 'a', 'b')", "json_array_length('[1, 2]')",
]  # fmt: skip
#: The same in the default dialect too: they are why it knows SQLite's words.
IN_THE_DEFAULT_TOO = [
    "date(0, 'unixepoch')", "date(1700000000, 'unixepoch')", "datetime(1700000000, 'unixepoch')", "datetime('2024-02-03 04:05:06')",
    "date('2024-01-31', '+1 month')", "date('2024-02-29', '+1 year')", "date('2024-03-31', '-1 month')", "date('2024-01-31', '+1 day')",
    "datetime('2024-01-31 10:11:12', '+1 month', '-3 hours')", "date('2024-05-17', 'start of month')", "date('2024-05-17', 'start of year', '+2 months')",
    "datetime('2024-05-17 10:00:00', 'start of day')", "strftime('%Y-%m', 1700000000, 'unixepoch')", "strftime('%s', '2020-01-01') + 0",
    "strftime('%d/%m/%Y', '2020-01-02')", "strftime('%H:%M:%S', '2020-01-02 03:04:05')", "json_extract('{\"a\": {\"b\": \"x\"}}', '$.a.b')",
    "json_extract('{\"a\": [1, \"y\"]}', '$.a[1]')", "json_extract('{\"a\": null}', '$.a')", "json_extract('{}', '$.a')",
]  # fmt: skip
TABLE = "(SELECT 1 AS n, 1.5 AS r, 'a' AS s UNION ALL SELECT 4, 2.5, 'B') AS t"


def sqlite(expression: str) -> object:
    with sqlite3.connect(":memory:") as connection:
        return connection.execute(f"SELECT {expression} FROM {TABLE}").fetchone()[0]


async def ours(expression: str, dialect: str) -> object:
    async with Session({}) as session:
        rows = await session.execute(f"SELECT {expression} FROM {TABLE}", dialect=dialect)
        return (await rows.fetchall())[0][0]


def same(one: object, other: object) -> bool:
    if isinstance(other, int | float) and one is not None and not isinstance(one, str):
        return float(one) == other
    return other is None if one is None else str(one) == str(other)


@pytest.mark.parametrize("expression", SAME_AS_SQLITE + IN_THE_DEFAULT_TOO)
async def test_sqlites_dialect_gives_sqlites_value(expression):
    value, expected = await ours(expression, "sqlite"), sqlite(expression)
    assert same(value, expected), f"{value!r} is not {expected!r}"


@pytest.mark.parametrize("expression", IN_THE_DEFAULT_TOO)
async def test_the_default_dialect_knows_sqlites_words(expression):
    value, expected = await ours(expression, "duckdb"), sqlite(expression)
    assert same(value, expected), f"{value!r} is not {expected!r}"


@pytest.mark.parametrize(("dialect", "seven", "order"), [("duckdb", 3.5, [1, None]), ("sqlite", 3, [None, 1])])
async def test_the_dialect_does_not_depend_on_how_a_table_is_spelled(fake, dialect, seven, order):
    async with Session({"openai": fake.provider()}) as session:
        rows = await session.execute(
            "SELECT trained_tokens / 2 FROM openai.fine_tuning.jobs WHERE id = 'ftjob-3'", dialect=dialect
        )
        assert await rows.fetchall() == [(seven - 2,)]
        rows = await session.execute("SELECT * FROM (SELECT NULL AS a UNION ALL SELECT 1) ORDER BY a", dialect=dialect)
        assert [value for (value,) in await rows.fetchall()] == order


# --- the first list ---------------------------------------------------------------------------------------------------

LIST_A = [
    """SELECT id, date(created_at, 'unixepoch') AS created, model, status, json_extract(method, '$.type') AS method, json_extract(error, '$.message') AS error
FROM openai.fine_tuning.jobs ORDER BY created_at DESC;""",
    """SELECT model, count(*) AS jobs, sum(trained_tokens) AS trained_tokens, sum(CASE WHEN status = 'succeeded' THEN 1 ELSE 0 END) AS ok,
       sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failed
FROM openai.fine_tuning.jobs GROUP BY model ORDER BY trained_tokens DESC;""",
    """SELECT step_number, fine_tuned_model_checkpoint, json_extract(metrics, '$.train_loss') AS train_loss, json_extract(metrics, '$.valid_loss') AS valid_loss,
       json_extract(metrics, '$.full_valid_loss') AS full_valid_loss
FROM openai.fine_tuning.checkpoints WHERE fine_tuning_job_id = 'ftjob-abc123' ORDER BY step_number;""",
    "INSERT INTO openai.fine_tuning.jobs (model, training_file) SELECT 'gpt-4o-mini-2024-07-18', 'file-abc123';",
    "SELECT status, trained_tokens, fine_tuned_model, json_extract(error, '$.message') AS error FROM openai.fine_tuning.jobs WHERE fine_tuning_job_id = 'ftjob-abc123';",
    "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-abc123';",
    """SELECT id, status, json_extract(request_counts, '$.total') AS total, json_extract(request_counts, '$.failed') AS failed, error_file_id
FROM openai.batches.batches WHERE status <> 'completed';""",
    """SELECT purpose, count(*) AS files, round(sum(bytes) / 1048576.0, 2) AS total_mb, min(date(created_at, 'unixepoch')) AS oldest
FROM openai.files.files GROUP BY purpose ORDER BY total_mb DESC;""",
    "SELECT id, filename, bytes FROM openai.files.files WHERE purpose = 'fine-tune' ORDER BY created_at;",
    "SELECT id, name, usage_bytes FROM openai.vector_stores.vector_stores WHERE last_active_at < strftime('%s', date('now', '-30 days')) ORDER BY usage_bytes DESC;",
    """SELECT p.name, sa.name FROM openai_admin.projects.projects p JOIN openai_admin.projects.service_accounts sa ON sa.project_id = p.id WHERE p.status = 'active';""",
]
REQUESTS = [
    ["GET /v1/fine_tuning/jobs?limit=100"],
    ["GET /v1/fine_tuning/jobs?limit=100"],
    ["GET /v1/fine_tuning/jobs/ftjob-abc123/checkpoints?limit=100"],
    ["POST /v1/fine_tuning/jobs"],
    ["GET /v1/fine_tuning/jobs/ftjob-abc123"],
    ["POST /v1/fine_tuning/jobs/ftjob-abc123/cancel"],
    ["GET /v1/batches?limit=100"],
    ["GET /v1/files?limit=100"],
    ["GET /v1/files?limit=100&purpose=fine-tune"],
    ["GET /v1/vector_stores?limit=100"],
    ["GET /v1/organization/projects?limit=100", "GET /v1/organization/projects/p1/service_accounts?limit=100"],
]


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
@pytest.mark.parametrize(("sql", "requests"), list(zip(LIST_A, REQUESTS, strict=True)))
async def test_list_a_runs_as_it_stands(session, fake, sql, requests, dialect):
    fake.lists |= {
        "/v1/fine_tuning/jobs/ftjob-abc123/checkpoints": [],
        "/v1/batches": [{"id": "batch_1", "status": "in_progress", "request_counts": {"total": 3, "failed": 1}}],
        "/v1/organization/projects": [
            {"id": "p1", "name": "one", "status": "active"},
            {"id": "p2", "name": "two", "status": "archived"},
        ],
        "/v1/organization/projects/p1/service_accounts": [{"id": "sa", "name": "robot"}],
    }
    result = await session.execute(sql, dialect=dialect)
    if isinstance(result, Rows):
        await result.fetchall()
    assert isinstance(result, Rows | Outcome)
    assert fake.requests == requests
