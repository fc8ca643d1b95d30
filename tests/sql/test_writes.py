"""INSERT, UPDATE, DELETE and EXEC: which requests they are, and what RETURNING sees."""

from __future__ import annotations

import httpx2
import pytest

from milepost.errors import Denied, Invalid, NotFound, Remote
from milepost.sql.session import Outcome, Rows, Session

JOBS = "/v1/fine_tuning/jobs"


async def test_insert_is_one_call_for_each_row(session, fake):
    outcome = await session.execute(
        "INSERT INTO openai.fine_tuning.jobs (model, data__training_file, suffix) "
        "VALUES ('base', 'file-1', 'a'), ('base', 'file-2', NULL)"
    )
    assert isinstance(outcome, Outcome)
    assert fake.requests == [f"POST {JOBS}"] * 2
    assert fake.bodies == [
        {"model": "base", "training_file": "file-1", "suffix": "a"},
        {"model": "base", "training_file": "file-2"},
    ]
    assert outcome.message == "INSERT 2 rows: POST /fine_tuning/jobs at http://openai.test/v1"


async def test_insert_of_a_query(ask, fake):
    """The statement of the first list, and one whose rows come from an API."""
    await ask(
        "INSERT INTO openai.fine_tuning.jobs (model, training_file) SELECT 'gpt-4o-mini-2024-07-18', 'file-abc123' RETURNING id"
    )
    await ask(
        "INSERT INTO openai.fine_tuning.jobs SELECT 'b' AS model, id AS training_file FROM openai.files.files RETURNING id"
    )
    assert [body["training_file"] for body in fake.bodies] == ["file-abc123", "file-1", "file-2"]


async def test_nested_values_are_structs_lists_and_json_text(ask, fake):
    rows = await ask(
        "INSERT INTO openai.fine_tuning.jobs (model, training_file, method, metadata, integrations) VALUES ('b', 'f', "
        "{'type': 'supervised', 'supervised': {'hyperparameters': {'n_epochs': 2, 'batch_size': 'auto'}}}, "
        "'{\"team\": null, \"n\": \"1\"}', [{'type': 'wandb', 'wandb': {'project': 'p', 'name': NULL}}]) "
        "RETURNING id, json_extract(metadata, '$.n') AS n, upper(model)"
    )
    assert fake.bodies == [
        {
            "model": "b",
            "training_file": "f",
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
            "metadata": {"team": None, "n": "1"},
            "integrations": [{"type": "wandb", "wandb": {"project": "p"}}],
        }
    ]
    assert rows == [("new-1", "1", "B")]


async def test_a_file_is_sent_from_a_path(ask, fake, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"messages": []}\n')
    await ask(f"INSERT INTO openai.files.files (file, purpose) VALUES (file('{path}'), 'fine-tune') RETURNING id")
    form = fake.bodies[0]["form"]
    assert 'filename="train.jsonl"' in form
    assert '{"messages": []}\n' in form
    assert "fine-tune" in form


async def test_a_file_is_made_of_the_rows_of_a_query(ask, fake):
    await ask(
        "INSERT INTO openai.files.files (file, purpose, filename) VALUES (to_jsonl(SELECT id, trained_tokens AS n "
        "FROM openai.fine_tuning.jobs ORDER BY id), 'fine-tune', 'mine.jsonl') RETURNING id"
    )
    form = fake.bodies[0]["form"]
    assert 'filename="mine.jsonl"' in form
    assert '\r\n{"id":"ftjob-1","n":1}\n{"id":"ftjob-2","n":2}\n{"id":"ftjob-3","n":3}\n\r\n' in form


async def test_update_selects_its_rows_first(ask, fake):
    rows = await ask(
        "UPDATE openai.vector_stores.vector_stores SET name = name || '!', metadata = {'was': usage_bytes::VARCHAR} "
        "WHERE usage_bytes > 15 RETURNING id, name, usage_bytes"
    )
    assert fake.requests == ["GET /v1/vector_stores?limit=100", "POST /v1/vector_stores/vs_2"]
    assert fake.bodies == [{"name": "two!", "metadata": {"was": "20"}}]
    assert rows == [("vs_2", "two!", 20)]


async def test_update_to_null_sends_null(session, fake):
    await session.execute("UPDATE openai.vector_stores.vector_stores SET metadata = NULL WHERE id = 'vs_1'")
    assert fake.requests == ["GET /v1/vector_stores/vs_1", "POST /v1/vector_stores/vs_1"]
    assert fake.bodies == [{"metadata": None}]


async def test_delete_by_the_name_of_the_path(ask, fake):
    rows = await ask("DELETE FROM openai.files.files WHERE file_id = 'file-1' RETURNING id, filename, deleted")
    assert fake.requests == ["GET /v1/files/file-1", "DELETE /v1/files/file-1"]
    assert rows == [("file-1", "a.jsonl", True)]


async def test_delete_of_what_is_not_there_deletes_nothing(session, fake):
    outcome = await session.execute("DELETE FROM openai.files.files WHERE id = 'file-9'")
    assert outcome.message.startswith("DELETE 0 rows")
    assert fake.requests == ["GET /v1/files/file-9"]


@pytest.mark.parametrize("sql", ["DELETE FROM openai.files.files", "DELETE FROM openai.files.files WHERE bytes > 0"])
async def test_more_rows_than_one_need_a_limit(session, fake, sql):
    with pytest.raises(
        Invalid, match=r"DELETE would change 2 rows of `openai.files.files`.\nhint: add LIMIT 2, or --all"
    ):
        await session.execute(sql)
    assert [request[:3] for request in fake.requests] == ["GET"]
    await session.execute(f"{sql} LIMIT 1")
    assert [file["id"] for file in fake.lists["/v1/files"]] == ["file-2"]
    await session.execute(sql, all_rows=True)
    assert fake.lists["/v1/files"] == []


async def test_a_parent_of_the_row_is_in_the_path(session, fake):
    fake.lists["/v1/vector_stores/vs_1/files"] = [{"id": "file-1", "usage_bytes": 1, "vector_store_id": "vs_1"}]
    await session.execute("DELETE FROM openai.vector_stores.files WHERE vector_store_id = 'vs_1' AND usage_bytes = 1")
    assert fake.requests[-1] == "DELETE /v1/vector_stores/vs_1/files/file-1"


async def test_an_id_that_only_the_path_has_a_name_for(session, fake):
    permissions = "/v1/fine_tuning/checkpoints/ft:base/permissions"
    fake.lists[permissions] = [{"id": "cp_1", "project_id": "p"}, {"id": "cp_2", "project_id": "p"}]
    await session.execute(
        "DELETE FROM openai.fine_tuning.checkpoint_permissions WHERE fine_tuned_model_checkpoint = 'ft:base' AND permission_id = 'cp_2'"
    )
    assert fake.requests[-1] == "DELETE /v1/fine_tuning/checkpoints/ft:base/permissions/cp_2"


async def test_exec_with_nested_values_json_and_returning(ask, fake):
    fake.makes.add("/v1/threads/runs")
    rows = await ask(
        "EXEC openai.beta.threads.create_and_run @assistant_id = 'a', @thread = {'messages': []}, "
        '@@json = \'{"temperature": 0.5, "ours": 1}\' RETURNING id, assistant_id'
    )
    assert fake.bodies == [{"assistant_id": "a", "thread": {"messages": []}, "temperature": 0.5, "ours": 1}]
    assert rows == [("new-1", "a")]


async def test_exec_reads_a_file(ask):
    assert await ask("EXEC openai.files.files.content @file_id = 'file-1' RETURNING content") == [
        ('{"messages": []}\n',)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_what_a_statement_gives_by_its_select_is_not_written(session, fake):
    with pytest.raises(Invalid, match="DELETE"):
        await session.execute("WITH x AS (DELETE FROM openai.files.files RETURNING id) SELECT * FROM x")
    assert fake.requests == []


# --- nothing is sent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "says"),
    [
        ("INSERT INTO openai.fine_tuning.jobs (model) VALUES ('b')", Invalid, "needs `training_file`.\nhint: SHOW INSERT INTO openai.fine_tuning.jobs"),
        ("INSERT INTO openai.fine_tuning.jobs (modle, training_file) VALUES ('b', 'f')", NotFound, "no parameter `modle`. Did you mean `model`"),
        ("INSERT INTO openai.fine_tuning.jobs (model, training_file) VALUES ('b', NULL)", Invalid, "needs `training_file`, and a row has none"),
        ("INSERT INTO openai.fine_tuning.jobs (model, training_file) SELECT 'b'", Invalid, "names 2 columns, and its rows have 1"),
        ("INSERT INTO openai.fine_tuning.jobs (model, training_file, metadata) VALUES ('b', 'f', 'x')", Invalid, "`metadata` wants a struct, a list or JSON text"),
        ("INSERT INTO openai.files.files (file, purpose) VALUES (file('/nowhere/x'), 'fine-tune')", Invalid, "Cannot read /nowhere/x: No such file"),
        ("INSERT INTO openai.files.files (file, purpose) VALUES (1, 'fine-tune')", Invalid, r"`file` wants file\('path'\)"),
        ("UPDATE openai.vector_stores.vector_stores SET nme = 'x' WHERE id = 'vs_1'", NotFound, "no parameter `nme`. Did you mean `name`"),
        ("UPDATE openai.files.files SET purpose = 'x' WHERE id = 'file-1'", Invalid, "has no method for UPDATE"),
        ("DELETE FROM openai.vector_stores.files WHERE id = 'x'", Invalid, "needs `vector_store_id`"),
        ("DELETE FROM openai.files WHERE id = 'x'", Invalid, "three names"),
        ("INSERT INTO openai.fine_tuning.jobs DEFAULT VALUES", Invalid, "VALUES or SELECT"),
    ],
)  # fmt: skip
async def test_a_bad_change_is_refused_before_anything_is_sent(session, fake, sql, kind, says):
    with pytest.raises(kind, match=says):
        await session.execute(sql)
    assert fake.requests == []


async def test_read_only_refuses_writes(fake):
    async with Session({"openai": fake.provider()}, read_only=True) as session:
        for sql in (
            "DELETE FROM openai.files.files WHERE id = 'file-1'",
            "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'x'",
        ):
            with pytest.raises(Denied, match="read-only"):
                await session.execute(sql)
        await session.execute("SELECT id FROM openai.files.files")
    assert fake.requests == ["GET /v1/files?limit=100"]


async def test_without_external_access_no_file_is_sent(fake, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    async with Session({"openai": fake.provider()}, external_access=False) as session:
        with pytest.raises(Denied, match="Files cannot be read here"):
            await session.execute(f"INSERT INTO openai.files.files (file, purpose) VALUES (file('{secret}'), 'batch')")
    assert fake.requests == []


async def test_a_dry_run_shows_the_exact_requests(session, fake):
    rows = await session.execute(
        "UPDATE openai.vector_stores.vector_stores SET name = 'x' WHERE usage_bytes > 1 LIMIT 5", dry_run=True
    )
    assert await rows.fetchall() == [
        ("POST", "http://openai.test/v1/vector_stores/vs_1", '{"name":"x"}'),
        ("POST", "http://openai.test/v1/vector_stores/vs_2", '{"name":"x"}'),
    ]
    rows = await session.execute(
        "INSERT INTO openai.files.files (file, purpose) VALUES (to_jsonl(SELECT 1 AS a), 'batch')", dry_run=True
    )
    assert await rows.fetchall() == [
        ("POST", "http://openai.test/v1/files", '{"file":"<rows.jsonl: 8 bytes>","purpose":"batch"}')
    ]
    assert {request[:3] for request in fake.requests} == {"GET"}


# --- errors -----------------------------------------------------------------------------------------------------------


def _fails_at(fake, wanted: str, status: int = 500, **headers: str) -> None:
    answer = fake.answer

    def failing(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST" and wanted in request.content.decode():
            fake.requests.append("failed")
            return httpx2.Response(status, json={"error": {"message": "no", "code": "x"}}, headers=headers)
        return answer(request)

    fake.answer = failing


INSERT_3 = "INSERT INTO openai.fine_tuning.jobs (model, training_file) VALUES ('b', 'f1'), ('b', 'f2'), ('b', 'f3')"


async def test_the_first_failure_ends_it_and_says_how_far_it_came(fake):
    _fails_at(fake, "f2")
    async with Session({"openai": fake.provider()}) as session:
        with pytest.raises(Remote, match="INSERT of 1 of 3 rows was carried out"):
            await session.execute(INSERT_3)
    assert fake.requests == [f"POST {JOBS}", "failed"]


async def test_on_error_continue_goes_on_and_keeps_the_error(fake):
    _fails_at(fake, "f2")
    async with Session({"openai": fake.provider()}) as session:
        rows = await session.execute(f"{INSERT_3} RETURNING training_file ON ERROR CONTINUE")
        assert isinstance(rows, Rows)
        assert await rows.fetchall() == [("f1",), ("f3",)]
        assert [error.status for error in rows.errors] == [500]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_write_is_sent_once(fake, status):
    _fails_at(fake, "f1", status)
    async with Session({"openai": fake.provider(max_retries=3)}) as session:
        with pytest.raises(Remote):
            await session.execute(INSERT_3)
    assert fake.requests == ["failed"]


async def test_a_write_is_sent_again_where_the_server_says_that_it_is_safe(fake):
    _fails_at(fake, "f1", 503, **{"x-should-retry": "true", "retry-after-ms": "1"})
    async with Session({"openai": fake.provider(max_retries=2)}) as session:
        with pytest.raises(Remote):
            await session.execute(INSERT_3)
    assert fake.requests == ["failed"] * 3
