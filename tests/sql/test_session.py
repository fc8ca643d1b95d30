from __future__ import annotations

import asyncio
import datetime as dt
import json
import time

import httpx2
import pytest

from milepost.errors import Denied, Invalid, NotFound, Remote
from milepost.sql.session import Outcome, Session, openai_provider

CHECKPOINTS = "/v1/fine_tuning/jobs/ftjob-1/checkpoints"
PAGE_2 = """
SELECT
id,
created_at,
fine_tuned_model_checkpoint,
fine_tuning_job_id,
metrics,
object,
step_number
FROM openai.fine_tuning.job_checkpoints
WHERE fine_tuning_job_id = '{{ fine_tuning_job_id }}';
"""


# --- the page's query -------------------------------------------------------------------------------------------------


async def test_the_query_of_the_page_runs_as_it_stands(session, fake):
    rows = await session.execute(PAGE_2, {"fine_tuning_job_id": "ftjob-2"})
    assert await rows.dicts() == [
        {
            "id": "ftckpt_ftjob-2_1",
            "created_at": 8589934593,
            "fine_tuned_model_checkpoint": "ft:base:ftjob-2:ckpt-step-1",
            "fine_tuning_job_id": "ftjob-2",
            "metrics": {
                "step": 1.0,
                "train_loss": 10.0,
                "train_mean_token_accuracy": None,
                "valid_loss": None,
                "valid_mean_token_accuracy": None,
                "full_valid_loss": 9.5,
                "full_valid_mean_token_accuracy": None,
            },
            "object": "fine_tuning.job.checkpoint",
            "step_number": 1,
        }
    ]


async def test_an_unfilled_placeholder_is_refused_before_anything_is_sent(session, fake):
    with pytest.raises(Invalid, match="`fine_tuning_job_id` has no value"):
        await session.execute(PAGE_2)
    assert fake.requests == []


async def test_a_value_stays_a_value_whatever_it_contains(session, fake):
    nasty = "x' OR '1'='1' -- {{ fine_tuning_job_id }}"
    with pytest.raises(Remote):
        await session.execute(PAGE_2, {"fine_tuning_job_id": nasty})
    assert fake.requests == [
        "GET /v1/fine_tuning/jobs/x'%20OR%20'1'='1'%20--%20%7B%7B%20fine_tuning_job_id%20%7D%7D/checkpoints?limit=100"
    ]


async def test_a_value_cannot_leave_its_path_segment(session, fake):
    with pytest.raises((Remote, Invalid)):
        await session.execute(PAGE_2, {"fine_tuning_job_id": "../../files"})
    assert all("/v1/files" not in request for request in fake.requests)


async def test_a_value_nobody_asked_for_is_refused(session):
    with pytest.raises(Invalid, match="no placeholder `jobb`"):
        await session.execute("SELECT 1", {"jobb": "x"})


async def test_a_placeholder_outside_quotes_is_refused(session):
    with pytest.raises(Invalid, match=r"in quotes: '\{\{ n \}\}'"):
        await session.execute("SELECT {{ n }}", {"n": "1"})


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_a_list_is_read_to_its_end(ask, fake):
    assert await ask("SELECT count(*) FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1'") == [
        (250,)
    ]
    assert len(fake.requests) == 3


async def test_in_asks_once_for_each_value(ask, fake):
    rows = await ask(
        "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id IN ('ftjob-1', 'ftjob-2', 'ftjob-1') ORDER BY id"
    )
    assert rows == [("ftckpt_ftjob-1_1",), ("ftckpt_ftjob-1_2",), ("ftckpt_ftjob-2_1",)]
    assert len(fake.requests) == 2


async def test_or_of_values_is_like_in(ask, fake):
    rows = await ask(
        "SELECT count(*) FROM openai.fine_tuning.job_checkpoints WHERE ('ftjob-1' = fine_tuning_job_id OR fine_tuning_job_id = 'ftjob-2') AND step_number = 1"
    )
    assert rows == [(2,)]


async def test_values_that_contradict_each_other_send_nothing(ask, fake):
    assert (
        await ask(
            "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'a' AND fine_tuning_job_id = 'b'"
        )
        == []
    )
    assert fake.requests == []


async def test_the_same_call_of_two_tables_is_sent_once(ask, fake):
    rows = await ask(
        "SELECT count(*) FROM openai.fine_tuning.job_checkpoints a JOIN openai.fine_tuning.checkpoints b ON a.id = b.id "
        "WHERE a.fine_tuning_job_id = 'ftjob-1' AND b.fine_tuning_job_id = 'ftjob-1'"
    )
    assert rows == [(2,)]
    assert len(fake.requests) == 1


async def test_id_is_one_get(ask, fake):
    assert await ask("SELECT status FROM openai.fine_tuning.jobs WHERE id = 'ftjob-2'") == [("succeeded",)]
    assert fake.requests == ["GET /v1/fine_tuning/jobs/ftjob-2"]


async def test_the_path_parameter_is_another_name_for_id(ask, fake):
    rows = await ask("SELECT id, fine_tuning_job_id FROM openai.fine_tuning.jobs WHERE fine_tuning_job_id = 'ftjob-2'")
    assert rows == [("ftjob-2", "ftjob-2")]
    assert fake.requests == ["GET /v1/fine_tuning/jobs/ftjob-2"]


async def test_an_id_that_is_not_there_is_no_row(ask):
    assert await ask("SELECT status FROM openai.fine_tuning.jobs WHERE id = 'ftjob-9'") == []


async def test_a_parent_that_is_not_there_is_an_error(ask):
    with pytest.raises(Remote, match=r"No such object.*status 404, code not_found, request id req_7") as caught:
        await ask("SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-9'")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (404, "not_found", "req_7")


async def test_the_id_of_a_checkpoint_is_not_the_id_of_its_job(ask, fake):
    with pytest.raises(Invalid, match="needs `fine_tuning_job_id`"):
        await ask("SELECT * FROM openai.fine_tuning.job_checkpoints WHERE id = 'ftckpt_1'")
    assert fake.requests == []


async def test_a_missing_parameter_is_named_with_a_query_that_works(ask):
    with pytest.raises(Invalid) as caught:
        await ask("SELECT * FROM openai.fine_tuning.job_events")
    assert caught.value.param == "fine_tuning_job_id"
    assert caught.value.message.endswith(
        "hint: SELECT * FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-…'"
    )


async def test_a_filter_that_means_the_same_is_sent(ask, fake):
    assert await ask("SELECT id FROM openai.files.files WHERE purpose = 'fine-tune'") == [("file-1",)]
    assert fake.requests == ["GET /v1/files?limit=100&purpose=fine-tune"]


async def test_other_filters_are_duckdbs(ask, fake):
    assert await ask("SELECT id FROM openai.fine_tuning.jobs WHERE trained_tokens = 2") == [("ftjob-2",)]
    assert fake.requests == ["GET /v1/fine_tuning/jobs?limit=100"]


async def test_an_api_error_ends_the_query(ask, fake):
    fake.broken[CHECKPOINTS] = httpx2.Response(500, text="boom", headers={"x-request-id": "req_1"})
    with pytest.raises(Remote, match=r"boom \(status 500, request id req_1\)"):
        await ask("SELECT 1 FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id IN ('ftjob-1', 'ftjob-2')")


async def test_a_list_that_goes_on_without_saying_how_is_an_error(ask, fake):
    page = {"object": "list", "data": [{"id": "same"}], "has_more": True}
    fake.broken["/v1/fine_tuning/jobs"] = httpx2.Response(200, json=page)
    with pytest.raises(Remote, match="no new cursor"):
        await ask("SELECT id FROM openai.fine_tuning.jobs")


async def test_a_value_of_another_type_is_an_error_not_a_null(ask, fake):
    fake.lists["/v1/files"][0]["bytes"] = "many"
    with pytest.raises(Remote, match="`bytes` that is not integer"):
        await ask("SELECT bytes FROM openai.files.files")


@pytest.mark.parametrize("name", ["job-id", "job.id", ""])
async def test_no_placeholder_is_sent_whatever_its_name(session, fake, name):
    with pytest.raises(Invalid, match="has no value"):
        await session.execute(f"SELECT id FROM openai.fine_tuning.jobs WHERE id = '{{{{ {name} }}}}'")
    assert fake.requests == []


async def test_a_wrong_url_is_an_error_and_not_no_such_job(session, fake):
    says = {"message": "Invalid URL (GET /jobs)", "type": "invalid_request_error", "param": None, "code": None}
    fake.broken["/v1/fine_tuning/jobs/ftjob-1"] = httpx2.Response(404, json={"error": says})
    with pytest.raises(Remote, match="Invalid URL"):
        await session.execute("SELECT id FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'")


# --- LIMIT ------------------------------------------------------------------------------------------------------------


async def test_limit_alone_is_one_request(ask, fake):
    assert (
        len(await ask("SELECT id FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1' LIMIT 5")) == 5
    )
    assert fake.requests == ["GET /v1/fine_tuning/jobs/ftjob-1/events?limit=5"]


@pytest.mark.parametrize(
    "rest",
    [
        "AND created_at < 100 LIMIT 5",
        "ORDER BY created_at LIMIT 5",
        "GROUP BY id LIMIT 5",
        "QUALIFY row_number() OVER (ORDER BY created_at) < 9 LIMIT 5",
    ],
)
async def test_limit_stays_here_where_it_would_cut_too_early(ask, fake, rest):
    rows = await ask(f"SELECT id FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1' {rest}")
    assert len(rows) == 5
    assert len(fake.requests) == 3


async def test_a_limit_in_percent_is_of_all_rows(ask):
    query = "SELECT id FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1' LIMIT 10%"
    assert len(await ask(query)) == 25


async def test_a_sample_of_an_api_table_is_refused_since_it_is_drawn_before_where(ask, fake):
    with pytest.raises(Invalid, match="in a CTE to sample it"):
        await ask("SELECT id FROM openai.files.files TABLESAMPLE 50% WHERE purpose = 'fine-tune'")
    assert fake.requests == []


async def test_limit_of_an_aggregate_is_not_of_its_rows(ask):
    assert await ask(
        "SELECT count(*) FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1' LIMIT 1"
    ) == [(250,)]


# --- every place a table can stand ------------------------------------------------------------------------------------


async def test_in_a_cte(ask):
    rows = await ask(
        "WITH c AS (SELECT * FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1') "
        "SELECT step_number FROM c ORDER BY metrics.train_loss LIMIT 1"
    )
    assert rows == [(2,)]


async def test_in_a_union(ask):
    rows = await ask(
        "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1' UNION ALL "
        "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-2'"
    )
    assert len(rows) == 3


async def test_in_a_correlated_subquery(ask):
    rows = await ask(
        "SELECT j.id FROM openai.fine_tuning.jobs j WHERE EXISTS (SELECT 1 FROM openai.fine_tuning.job_checkpoints c "
        "WHERE c.fine_tuning_job_id IN ('ftjob-1') AND c.fine_tuning_job_id = j.fine_tuning_job_id)"
    )
    assert rows == [("ftjob-1",)]


async def test_in_a_join_the_condition_is_for_its_own_table(ask, fake):
    rows = await ask(
        "SELECT j.id, c.step_number FROM openai.fine_tuning.jobs j "
        "LEFT JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = j.id AND c.fine_tuning_job_id = 'ftjob-2' "
        "ORDER BY j.id"
    )
    assert rows == [("ftjob-1", None), ("ftjob-2", 1), ("ftjob-3", None)]


async def test_a_condition_on_the_kept_side_of_a_left_join_is_not_pushed(ask):
    rows = await ask("SELECT count(*) FROM openai.files.files f LEFT JOIN (VALUES (1)) x(n) ON f.purpose = 'batch'")
    assert rows == [(2,)]


async def test_one_value_serves_two_columns_that_are_equal(ask, fake):
    rows = await ask(
        "SELECT j.status, c.step_number FROM openai.fine_tuning.jobs j "
        "JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = j.id AND c.step_number > 1 "
        "WHERE j.id = 'ftjob-1'"
    )
    assert rows == [("succeeded", 2)]
    assert sorted(fake.requests) == [
        "GET /v1/fine_tuning/jobs/ftjob-1",
        "GET /v1/fine_tuning/jobs/ftjob-1/checkpoints?limit=100",
    ]


async def test_a_nearest_match_is_made_before_where(ask):
    rows = await ask(
        "SELECT f.id FROM (VALUES (9)) x(t) ASOF JOIN openai.files.files f ON x.t >= f.created_at WHERE f.purpose = 'batch'"
    )
    assert rows == []


async def test_under_its_whole_name(ask):
    rows = await ask(
        "SELECT openai.fine_tuning.jobs.id FROM openai.fine_tuning.jobs WHERE openai.fine_tuning.jobs.id = 'ftjob-1'"
    )
    assert rows == [("ftjob-1",)]


async def test_names_are_read_in_any_case(ask):
    assert await ask("SELECT OPENAI.Fine_Tuning.Jobs.ID FROM OpenAI.Fine_Tuning.Jobs WHERE Id = 'ftjob-1'") == [
        ("ftjob-1",)
    ]


async def test_two_providers_in_one_query(fake):
    async with Session({"openai": fake.provider(), "local": fake.provider("local")}) as session:
        rows = await session.execute(
            "SELECT count(*) FROM openai.fine_tuning.jobs a JOIN local.fine_tuning.jobs b ON a.id = b.id"
        )
        assert await rows.fetchall() == [(3,)]


# --- hidden columns ---------------------------------------------------------------------------------------------------


async def test_a_parameter_that_rows_do_not_show_is_no_column_of_star(session):
    rows = await session.execute(
        "SELECT * FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1' LIMIT 1"
    )
    assert rows.columns == ("id", "created_at", "level", "message", "object", "data", "type")
    assert len(await rows.fetchall()) == 1


async def test_a_parameter_that_rows_do_not_show_can_be_selected(ask):
    rows = await ask(
        "SELECT fine_tuning_job_id, e.* FROM openai.fine_tuning.job_events e WHERE fine_tuning_job_id = 'ftjob-1' LIMIT 1"
    )
    assert rows[0][:2] == ("ftjob-1", "ftevent-250")


async def test_a_shown_column_goes_before_a_hidden_one(ask):
    rows = await ask(
        "SELECT DISTINCT c.fine_tuning_job_id FROM openai.fine_tuning.job_checkpoints c, openai.fine_tuning.job_events e "
        "WHERE fine_tuning_job_id = 'ftjob-1' AND e.fine_tuning_job_id = 'ftjob-1'"
    )
    assert rows == [("ftjob-1",)]


# --- types and dialect ------------------------------------------------------------------------------------------------


async def test_numbers_compare_as_numbers(ask):
    rows = await ask(
        "SELECT max(json_extract(metrics, '$.full_valid_loss')), max(metrics.full_valid_loss) "
        "FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1'"
    )
    assert rows == [(10.1, 10.1)]


async def test_json_extract_is_typed_through_a_cte(ask):
    rows = await ask(
        "WITH c AS (SELECT * FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1') "
        "SELECT max(json_extract(m, '$.full_valid_loss')) FROM (SELECT metrics AS m FROM c) x"
    )
    assert rows == [(10.1,)]


async def test_duckdbs_own_ways_into_a_field_work(ask):
    rows = await ask(
        "SELECT c.metrics.step, metrics ->> 'step', metrics['step'] FROM openai.fine_tuning.job_checkpoints c "
        "WHERE fine_tuning_job_id = 'ftjob-2'"
    )
    assert rows == [(1.0, "1.0", 1.0)]


async def test_json_inside_a_struct_is_what_it_says(ask):
    assert await ask("SELECT hyperparameters FROM openai.fine_tuning.jobs LIMIT 1") == [
        ({"batch_size": "auto", "learning_rate_multiplier": None, "n_epochs": 3},)
    ]


async def test_json_extract_of_an_unknown_field_names_the_near_ones(ask, fake):
    with pytest.raises(NotFound, match=r"no field `train_los`\. Did you mean `train_loss`"):
        await ask(
            "SELECT json_extract(metrics, '$.train_los') FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'x'"
        )
    assert fake.requests == []


async def test_times_as_sqlite_writes_them(ask):
    rows = await ask(
        "SELECT date(created_at, 'unixepoch'), datetime(created_at, 'unixepoch'), strftime('%Y-%m', created_at, 'unixepoch') "
        "FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'"
    )
    assert rows == [(dt.date(2023, 11, 14), dt.datetime(2023, 11, 14, 22, 13, 21), "2023-11")]  # noqa: DTZ001 (TIMESTAMP has no zone)


async def test_unix_seconds_compare_with_strftime(ask):
    rows = await ask(
        "SELECT count(*) FROM openai.fine_tuning.jobs WHERE created_at < strftime('%s', date('now', '-30 days'))"
    )
    assert rows == [(3,)]


async def test_duckdbs_own_date_functions_stay_its_own(ask):
    rows = await ask(
        "SELECT date('2024-02-03'), strftime(DATE '2024-02-03', '%d'), json_extract('{\"a\": 1}'::JSON, '$.a')"
    )
    assert rows == [(dt.date(2024, 2, 3), "03", "1")]


LIST_A = [
    "SELECT id, date(created_at, 'unixepoch') AS created, model, status, json_extract(method, '$.type') AS method, json_extract(error, '$.message') AS error FROM openai.fine_tuning.jobs ORDER BY created_at DESC",
    "SELECT model, count(*) AS jobs, sum(trained_tokens) AS trained_tokens, sum(CASE WHEN status = 'succeeded' THEN 1 ELSE 0 END) AS ok, sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) AS failed FROM openai.fine_tuning.jobs GROUP BY model ORDER BY trained_tokens DESC",
    "SELECT step_number, fine_tuned_model_checkpoint, json_extract(metrics, '$.train_loss') AS train_loss, json_extract(metrics, '$.valid_loss') AS valid_loss, json_extract(metrics, '$.full_valid_loss') AS full_valid_loss FROM openai.fine_tuning.checkpoints WHERE fine_tuning_job_id = 'ftjob-1' ORDER BY step_number",
    "SELECT status, trained_tokens, fine_tuned_model, json_extract(error, '$.message') AS error FROM openai.fine_tuning.jobs WHERE fine_tuning_job_id = 'ftjob-1'",
    "SELECT purpose, count(*) AS files, round(sum(bytes) / 1048576.0, 2) AS total_mb, min(date(created_at, 'unixepoch')) AS oldest FROM openai.files.files GROUP BY purpose ORDER BY total_mb DESC",
    "SELECT id, filename, bytes FROM openai.files.files WHERE purpose = 'fine-tune' ORDER BY created_at",
]
LIST_A_ROWS = [
    [
        ("ftjob-3", dt.date(2023, 11, 14), "base", "succeeded", "supervised", None),
        ("ftjob-2", dt.date(2023, 11, 14), "base", "succeeded", "supervised", None),
        ("ftjob-1", dt.date(2023, 11, 14), "base", "succeeded", "supervised", None),
    ],
    [("base", 3, 6, 3, 0)],
    [(1, "ft:base:ftjob-1:ckpt-step-1", 10.0, None, 9.5), (2, "ft:base:ftjob-1:ckpt-step-2", 5.0, None, 10.1)],
    [("succeeded", 1, None, None)],
    [("fine-tune", 1, 1.0, dt.date(1970, 1, 1)), ("batch", 1, 0.0, dt.date(1970, 1, 1))],
    [("file-1", "a.jsonl", 1048576)],
]


@pytest.mark.parametrize(("sql", "expected"), list(zip(LIST_A, LIST_A_ROWS, strict=True)))
async def test_queries_of_other_tools_documentation(ask, sql, expected):
    assert await ask(sql) == expected


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "says"),
    [
        ("SELECT 1 FROM opnai.fine_tuning.jobs", NotFound, "No provider `opnai`. Did you mean `openai`"),
        ("SELECT 1 FROM openai.fine_tunning.jobs", NotFound, "No service `fine_tunning`. Did you mean `fine_tuning`"),
        ("SELECT 1 FROM openai.fine_tuning.job", NotFound, "no resource `job`. Did you mean `jobs`"),
        ("SELECT 1 FROM openai.jobs", NotFound, "three names"),
        ("SELECT j.stats FROM openai.fine_tuning.jobs j", NotFound, "no column `stats`. Did you mean `status`"),
        ("SELECT stats FROM openai.fine_tuning.jobs", Invalid, '"stats" not found.*"status"'),
        ("SELECT frob(id) FROM openai.fine_tuning.jobs", Invalid, "frob"),
        ("SELECT FROM WHERE", Invalid, "."),
        ("SELCT 1", Invalid, "`SELCT` begins no statement. Did you mean `SELECT`"),
        ("SELECT 1; SELECT 2", Invalid, "Expected one"),
        (f"SELECT {'(' * 3000}1.0{')' * 3000}", Invalid, "nested too deeply"),
        ("", Invalid, "Expected one statement"),
        ("COPY x TO 'y'", Invalid, "COPY is not here; there are SELECT"),
        ("SET threads = 1", Invalid, "SET is not here"),
        ("SHOW COLUMNS", Invalid, "PROVIDERS"),
        ("SELECT file('x')", Invalid, "it is for INSERT and EXEC"),
        ("SELECT to_jsonl(1)", Invalid, "to_jsonl takes a query"),
        ("EXPLAIN SHOW PROVIDERS", Invalid, "EXPLAIN is for"),
        ("EXPLAIN ANALYZE DELETE FROM openai.files.files WHERE id = 'x'", Invalid, "--dry-run"),
    ],
)
async def test_a_bad_statement_is_refused_before_anything_is_sent(session, fake, sql, kind, says):
    with pytest.raises(kind, match=says):
        await session.execute(sql)
    assert fake.requests == []


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO openai.fine_tuning.job_checkpoints (id) VALUES ('x')",
        "UPDATE openai.fine_tuning.job_checkpoints SET id = 'x' WHERE fine_tuning_job_id = 'y'",
        "REPLACE openai.fine_tuning.job_checkpoints SET id = 'x'",
        "DELETE FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'y'",
        "EXEC openai.fine_tuning.job_checkpoints.cancel @fine_tuning_job_id = 'y'",
    ],
)
async def test_what_checkpoints_cannot_do_names_the_one_method_there_is(session, fake, sql):
    with pytest.raises(Invalid, match="its one method is `list_fine_tuning_job_checkpoints`, reached by SELECT"):
        await session.execute(sql)
    assert fake.requests == []


# --- SHOW, DESCRIBE, EXEC ---------------------------------------------------------------------------------------------


async def test_show_methods_of_checkpoints_is_the_one_of_the_page(session):
    rows = await session.execute("SHOW METHODS IN openai.fine_tuning.job_checkpoints")
    assert await rows.dicts() == [
        {"MethodName": "list_fine_tuning_job_checkpoints", "SQLVerb": "SELECT", "RequiredParams": "fine_tuning_job_id"}
    ]


async def test_describe_gives_the_pages_datatypes(ask):
    assert await ask("DESCRIBE openai.fine_tuning.job_checkpoints") == [
        ("id", "string"),
        ("created_at", "integer"),
        ("fine_tuned_model_checkpoint", "string"),
        ("fine_tuning_job_id", "string"),
        ("metrics", "object"),
        ("object", "string"),
        ("step_number", "integer"),
    ]


async def test_show_providers(ask):
    assert await ask("SHOW PROVIDERS") == [
        ("openai", "http://openai.test/v1"),
        ("openai_admin", "http://openai_admin.test/v1"),
    ]


async def test_show_resources_like(ask):
    assert await ask("SHOW RESOURCES IN openai.fine_tuning LIKE 'job%'") == [
        ("job_checkpoints", "openai.fine_tuning.job_checkpoints"),
        ("job_events", "openai.fine_tuning.job_events"),
        ("jobs", "openai.fine_tuning.jobs"),
    ]


async def test_show_services_that_are_not_there_is_no_row(ask):
    assert await ask("SHOW SERVICES IN openai LIKE 'nothing'") == []


async def test_exec_cancels(session, fake):
    outcome = await session.execute("EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-1';")
    assert isinstance(outcome, Outcome)
    assert outcome.value["status"] == "cancelled"
    assert fake.requests == ["POST /v1/fine_tuning/jobs/ftjob-1/cancel"]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("EXEC openai.fine_tuning.jobs.cancel", "needs `fine_tuning_job_id`"),
        ("EXEC openai.fine_tuning.jobs.cancle @fine_tuning_job_id = 'x'", "no method `cancle`"),
        ("EXEC openai.fine_tuning.jobs.cancel @job = 'x'", "no parameter `job`"),
        ("EXEC openai.fine_tuning.jobs.create @model = 'x'", "reached by INSERT"),
    ],
)
async def test_a_bad_exec_is_refused_before_anything_is_sent(session, fake, sql, says):
    with pytest.raises((Invalid, NotFound), match=says):
        await session.execute(sql)
    assert fake.requests == []


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_select_only_refuses_the_rest(fake):
    async with Session({"openai": fake.provider()}, select_only=True, external_access=False) as session:
        with pytest.raises(Denied, match="Only SELECT"):
            await session.execute("EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'ftjob-1'")
        rows = await session.execute("SELECT count(*) FROM openai.fine_tuning.jobs")
        assert await rows.fetchall() == [(3,)]
    assert fake.requests == ["GET /v1/fine_tuning/jobs?limit=100"]


async def test_without_external_access_no_file_can_be_read(fake, tmp_path):
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    async with Session({"openai": fake.provider()}, external_access=False) as session:
        with pytest.raises(Invalid):
            await session.execute(f"SELECT * FROM read_csv('{secret}')")


async def test_with_external_access_a_file_joins_the_api(ask, tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text(json.dumps({"job": "ftjob-2", "note": "best"}))
    rows = await ask(f"SELECT j.id, n.note FROM openai.fine_tuning.jobs j JOIN '{notes}' n ON n.job = j.id")
    assert rows == [("ftjob-2", "best")]


async def test_the_providers_of_a_statement_are_told_before_their_first_request(fake):
    used = []
    async with Session(
        {"openai": fake.provider()}, on_use=lambda p: used.append((p.host, len(fake.requests)))
    ) as session:
        await session.execute("SELECT id FROM openai.fine_tuning.jobs")
    assert used == [("http://openai.test/v1", 0)]


async def test_no_key_is_denied(fake):
    async with Session({"openai": openai_provider(base_url="http://x/v1", api_key=None)}) as session:
        with pytest.raises(Denied, match="no API key"):
            await session.execute("SELECT id FROM openai.fine_tuning.jobs")


async def test_a_caller_that_gives_up_stops_duckdb(session):
    rows = await session.execute(
        "SELECT count(*) FROM range(10000000000) a, range(100) b WHERE a.range * b.range % 7 = 3"
    )
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await rows.fetchall()
    assert time.monotonic() - started < 5


async def test_rows_as_arrow(session):
    rows = await session.execute("SELECT id, trained_tokens FROM openai.fine_tuning.jobs ORDER BY id")
    batches = [batch async for batch in rows.batches()]
    assert [batch.to_pydict() for batch in batches] == [
        {"id": ["ftjob-1", "ftjob-2", "ftjob-3"], "trained_tokens": [1, 2, 3]}
    ]


async def test_two_columns_of_one_name_are_told_apart(session):
    rows = await session.execute("SELECT 1 AS a, 2 AS a")
    assert await rows.dicts() == [{"a": 1, "a_1": 2}]
