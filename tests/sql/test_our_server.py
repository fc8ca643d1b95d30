"""The SQL session against our own server, in memory: upload, create, wait's state, chat, delete."""

from __future__ import annotations

import httpx2
import pytest
from fastapi import FastAPI

from milepost.sql.session import Session, openai_provider
from tests.api.conftest import (  # noqa: F401 (pytest finds fixtures by their names here)
    BASE,
    KEY,
    app,
    clock,
    database,
    engine,
    first_start,
    settings,
)


@pytest.fixture
async def local(app: FastAPI):  # noqa: F811
    client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app))
    provider = openai_provider("local", base_url="http://milepost.test/v1", api_key=KEY, http_client=client)
    async with Session({"local": provider}) as session:
        yield session


async def rows(session, sql):
    return await (await session.execute(sql)).fetchall()


async def test_files_jobs_and_chats_of_our_server(local):
    lines = "SELECT [{'role': 'user', 'content': 'q' || n}, {'role': 'assistant', 'content': 'a' || n}] AS messages FROM range(12) t(n)"
    [(file, size)] = await rows(
        local,
        f"INSERT INTO local.files.files (file, purpose) VALUES (to_jsonl({lines}), 'fine-tune') RETURNING id, bytes",
    )
    assert size > 500
    [(job, status)] = await rows(
        local,
        f"INSERT INTO local.fine_tuning.jobs (model, training_file, suffix) VALUES ('{BASE}', '{file}', 'mine') RETURNING id, status",
    )
    assert status in ("validating_files", "queued")
    assert await rows(
        local,
        "SELECT f.id, j.id, count(e.id) > 0 FROM local.fine_tuning.jobs j JOIN local.files.files f ON f.id = j.training_file "
        "JOIN local.fine_tuning.job_events e ON e.fine_tuning_job_id = j.id GROUP BY ALL",
    ) == [(file, job, True)]
    assert await rows(local, f"EXEC local.fine_tuning.jobs.cancel @fine_tuning_job_id = '{job}' RETURNING status") == [
        ("cancelled",)
    ]
    assert await rows(local, f"AWAIT SELECT status FROM local.fine_tuning.jobs WHERE id = '{job}'") == [("cancelled",)]
    [(said,)] = await rows(local, f"SELECT chat('{BASE}', 'hello')")
    assert isinstance(said, str)
    assert await rows(local, f"DELETE FROM local.files.files WHERE file_id = '{file}' RETURNING deleted") == [(True,)]
    assert await rows(local, f"SELECT id FROM local.files.files WHERE id = '{file}'") == []


async def test_a_file_in_parts_is_one_statement(local, tmp_path):
    line = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    path = tmp_path / "big.jsonl"
    path.write_bytes(line * 50)
    [(status, ready, file)] = await rows(
        local,
        "INSERT /*+ AWAIT */ INTO local.uploads.uploads (file, mime_type, purpose, part_size) "
        f"VALUES (file('{path}'), 'text/jsonl', 'fine-tune', 1000) RETURNING status, file.status, file.id",
    )
    assert (status, ready) == ("completed", "processed")
    assert await rows(local, f"SELECT filename, bytes FROM local.files.files WHERE id = '{file}'") == [
        ("big.jsonl", 50 * len(line))
    ]
    [(content,)] = await rows(local, f"EXEC local.files.files.content @file_id = '{file}' RETURNING content")
    assert content == (line * 50).decode()
