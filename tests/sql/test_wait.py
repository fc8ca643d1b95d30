"""AWAIT looks again until what it shows is final, or there."""

from __future__ import annotations

import pytest
from httpx2 import Response

from milepost.errors import Conflict, Invalid, Remote, TimedOut
from milepost.sql.catalog import shipped
from milepost.sql.session import Session
from milepost.sql.wait import PENDING
from tests.sql.conftest import a_checkpoint, a_job

JOBS = "/v1/fine_tuning/jobs"
CHECKPOINTS = f"{JOBS}/ftjob-1/checkpoints"

#: Statuses that end the waiting, over every table.
FINAL = {
    "accepted", "active", "budget_reached", "cancelled", "closed", "completed", "connected", "degraded", "disconnected",
    "error", "expired", "failed", "idle", "incomplete", "processed", "ready", "requires_action", "skipped", "succeeded",
    "suspended", "unhealthy", "validated",
}  # fmt: skip


@pytest.fixture
async def looks(fake):
    """A session, and what it says at each look; the n-th request for the jobs finds the n-th status."""
    said: list[str] = []
    async with Session({"openai": fake.provider()}, on_look=said.append) as session:
        yield session, said


def becomes(fake, *statuses: str, number: int = 1) -> None:
    """The job has these statuses, one after another, each time it is asked for."""
    answer, left = fake.answer, list(statuses)

    def later(request):
        if request.method == "GET" and request.url.path.startswith(JOBS) and "checkpoints" not in request.url.path:
            status = left.pop(0) if len(left) > 1 else left[0]
            fake.lists[JOBS] = [a_job(number, status=status, object="fine_tuning.job"), a_job(7, status="failed")]
        return answer(request)

    fake.answer = later


async def test_await_select_waits_until_every_row_is_final(looks, fake):
    session, said = looks
    becomes(fake, "queued", "running", "running", "succeeded")
    rows = await session.execute("AWAIT EVERY 0 SELECT id, status FROM openai.fine_tuning.jobs ORDER BY id")
    assert await rows.fetchall() == [("ftjob-1", "succeeded"), ("ftjob-7", "failed")]
    assert [line.partition(": ")[2] for line in said] == [
        "failed 1, queued 1",
        "failed 1, running 1",
        "failed 1, running 1",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'",
        "SELECT count(*) FROM openai.fine_tuning.jobs WHERE model = 'base' GROUP BY status",
        "WITH w AS (SELECT 'ftjob-1' AS id) SELECT j.model FROM openai.fine_tuning.jobs j JOIN w ON w.id = j.id",
        "SELECT id FROM openai.fine_tuning.jobs WHERE id < 'ftjob-5' ORDER BY id LIMIT 1",
    ],
)
async def test_only_rows_that_are_shown_are_waited_for(looks, fake, sql):
    session, said = looks
    becomes(fake, "running", "succeeded")
    assert len(await (await session.execute(f"AWAIT EVERY 0 {sql}")).fetchall()) >= 1
    assert len(said) == 1
    fake.lists[JOBS][1]["status"] = "running"


async def test_a_row_that_nothing_waits_for_may_be_pending(looks, fake):
    session, said = looks
    becomes(fake, "running")
    rows = await session.execute("AWAIT EVERY 0 SELECT id FROM openai.fine_tuning.jobs WHERE id = 'ftjob-7'")
    assert await rows.fetchall() == [("ftjob-7",)]
    assert said == []


async def test_await_a_checkpoint_that_is_good_enough(looks, fake):
    session, said = looks
    fake.lists[CHECKPOINTS] = []
    answer = fake.answer

    def later(request):
        if request.url.path == CHECKPOINTS and len(said) == 2:
            fake.lists[CHECKPOINTS] = [a_checkpoint("ftjob-1", 1)]
        return answer(request)

    fake.answer = later
    becomes(fake, "running")
    rows = await session.execute(
        "AWAIT EVERY 0 SELECT step_number FROM openai.fine_tuning.job_checkpoints "
        "WHERE fine_tuning_job_id = 'ftjob-1' AND metrics.full_valid_loss < 9.9"
    )
    assert await rows.fetchall() == [(1,)]
    assert [line.partition(": ")[2] for line in said] == ["rows 0", "rows 0"]


async def test_a_job_that_ends_without_the_row_ends_the_waiting(looks, fake):
    session, _ = looks
    becomes(fake, "running", "failed")
    with pytest.raises(Conflict, match="has ended, and no row came"):
        await session.execute(
            "AWAIT EVERY 0 SELECT 1 FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-1' AND step_number = 99"
        )


async def test_a_time_out_says_the_state(looks, fake):
    session, _ = looks
    becomes(fake, "running")
    with pytest.raises(TimedOut, match=r"it is not final: failed 1, running 1"):
        await session.execute("AWAIT TIMEOUT 0 SELECT id FROM openai.fine_tuning.jobs")


@pytest.mark.parametrize("word", ["INSERT /*+ AWAIT every=0 */ INTO", "AWAIT EVERY 0 INSERT INTO"])
async def test_insert_waits_until_what_it_made_is_final(looks, fake, word):
    session, said = looks
    answer = fake.answer

    def made(request):
        if request.method == "POST":
            return_value = answer(request)
            becomes(fake, "queued", "succeeded", number=1)
            return type(return_value)(200, json=a_job(1, status="queued"))
        return answer(request)

    fake.answer = made
    rows = await session.execute(
        f"{word} openai.fine_tuning.jobs (model, training_file) VALUES ('b', 'f') RETURNING id, status"
    )
    assert await rows.fetchall() == [("ftjob-1", "succeeded")]
    assert [line.partition(": ")[2] for line in said] == ["queued 1"]


async def test_what_has_no_status_cannot_be_waited_for(looks, fake):
    session, _ = looks
    with pytest.raises(Invalid, match="AWAIT is for"):
        await session.execute("AWAIT SHOW PROVIDERS")


def test_every_status_the_sdk_knows_is_pending_or_final():
    tables = [
        shipped().table(*name.split(".")) for root in ("openai", "openai_admin") for name in shipped().names(root)
    ]
    known = {value for table in tables if (column := table.column("status")) for value in column.enum}
    assert known - PENDING == FINAL


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("INSERT /*+ AWAIT */ INTO openai.uploads.uploads (bytes, filename, mime_type, purpose) VALUES (3, 'a', 'text/jsonl', 'batch')", r"no call reads what it makes\nhint: .*complete …; INSERT /\*\+ AWAIT \*/ INTO openai.uploads.uploads \(file, mime_type, purpose\)"),
        ("INSERT /*+ AWAIT */ INTO openai.uploads.parts (upload_id, data) VALUES ('upload_1', 'abc')", r"no call reads what it makes\. Send it without AWAIT"),
        ("INSERT /*+ AWAIT */ INTO openai.conversations.conversations (metadata) VALUES ('{}')", "no status to wait for"),
    ],
)  # fmt: skip
async def test_what_cannot_be_waited_for_is_refused_before_it_is_sent(looks, fake, sql, says):
    session, _ = looks
    with pytest.raises(Invalid, match=says):
        await session.execute(sql)
    assert fake.requests == []


# --- uploads: nothing reads one, but the answer of its last request says how it is, and its file can be read ----------

WHOLE = "INTO openai.uploads.uploads (file, mime_type, purpose, part_size) VALUES (file('big.jsonl'), 'text/jsonl', 'fine-tune', 4)"


@pytest.fixture
def uploads(fake, tmp_path, monkeypatch):
    """A server that takes uploads; the file of one is `uploaded` twice, then `processed`. There is a file to send."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big.jsonl").write_bytes(b"0123456789")
    answer, statuses = fake.answer, ["uploaded", "uploaded", "processed"]
    upload = {"id": "upload_1", "object": "upload", "status": "pending", "file": None}
    file = {"id": "file-9", "object": "file", "status": "uploaded", "filename": "big.jsonl", "bytes": 10}
    fake.makes |= {"/v1/uploads", "/v1/uploads/upload_1/parts", "/v1/uploads/upload_1/complete"}

    def later(request):
        path = request.url.path
        if path in fake.broken or not path.startswith(("/v1/uploads", "/v1/files/file-9")):
            return answer(request)
        if path == "/v1/files/file-9":
            fake.requests.append(f"GET {path}")
            return Response(200, json={**file, "status": statuses.pop(0)})
        if path.endswith("/cancel"):
            fake.requests.append(f"POST {path}")
            return Response(200, json={**upload, "status": "cancelled"})
        made = answer(request).json()
        if path.endswith("/parts"):
            return Response(200, json={"id": f"part_{len(fake.bodies) - 1}", "object": "upload.part"})
        if path.endswith("/complete"):
            return Response(200, json={**upload, "status": "completed", "file": file})
        return Response(200, json={**upload, "bytes": made["bytes"]})

    fake.answer = later
    return fake


async def test_a_file_is_sent_in_parts_and_waited_for_in_one_statement(looks, uploads):
    session, said = looks
    rows = await session.execute(f"INSERT /*+ AWAIT every=0 */ {WHOLE} RETURNING id, status, file.id, file.status")
    assert await rows.fetchall() == [("upload_1", "completed", "file-9", "processed")]
    assert uploads.requests == [
        "POST /v1/uploads",
        *["POST /v1/uploads/upload_1/parts"] * 3,
        "POST /v1/uploads/upload_1/complete",
        *["GET /v1/files/file-9"] * 3,
    ]
    created, *parts, completed = uploads.bodies
    assert created == {"bytes": 10, "filename": "big.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    assert [piece in part["form"] for piece, part in zip(("0123", "4567", "89"), parts, strict=True)] == [True] * 3
    assert completed == {"part_ids": ["part_1", "part_2", "part_3"]}
    assert [line.partition(": ")[2] for line in said] == [
        "part 1 of 3",
        "part 2 of 3",
        "part 3 of 3",
        "uploaded 1",
        "uploaded 1",
    ]


@pytest.mark.parametrize(
    ("method", "says", "asked"),
    [
        ("complete @upload_id = 'upload_1', @part_ids = ['part_1']", ("completed", "processed"), 3),
        ("cancel @upload_id = 'upload_1'", ("cancelled", None), 0),
    ],
)
async def test_the_last_word_on_an_upload_is_waited_for(looks, uploads, method, says, asked):
    session, _ = looks
    sql = f"EXEC /*+ AWAIT every=0 */ openai.uploads.uploads.{method} RETURNING status, file ->> 'status'"
    assert await (await session.execute(sql)).fetchall() == [says]
    assert uploads.requests.count("GET /v1/files/file-9") == asked


async def test_a_part_that_fails_says_what_is_left(looks, uploads):
    session, _ = looks
    refusal = {"message": "The disk is full", "code": "full"}
    uploads.broken["/v1/uploads/upload_1/parts"] = Response(507, json={"error": refusal})
    with pytest.raises(Remote, match=r"The disk is full .*; upload `upload_1` has 0 of 3 parts and is not completed"):
        await session.execute(f"INSERT {WHOLE}")


async def test_the_preview_of_an_upload_has_every_request(looks, uploads):
    session, _ = looks
    rows = await session.execute(f"INSERT {WHOLE}", dry_run=True)
    assert await rows.fetchall() == [
        ("POST", "http://openai.test/v1/uploads", '{"bytes":10,"filename":"big.jsonl","mime_type":"text/jsonl","purpose":"fine-tune"}'),
        *[
            ("POST", "http://openai.test/v1/uploads/UPLOAD_ID/parts", f'{{"data":"<big.jsonl: {size} bytes>","upload_id":"UPLOAD_ID"}}')
            for size in (4, 4, 2)
        ],
        ("POST", "http://openai.test/v1/uploads/UPLOAD_ID/complete", '{"part_ids":["PART_ID_1","PART_ID_2","PART_ID_3"]}'),
    ]  # fmt: skip
    explained = await (await session.execute(f"EXPLAIN INSERT {WHOLE}")).dicts()
    assert [line["request"].partition("/v1")[2] for line in explained[:-1]] == [
        "/uploads",
        *["/uploads/UPLOAD_ID/parts"] * 3,
        "/uploads/UPLOAD_ID/complete",
    ]
    assert uploads.requests == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("(file('gone.jsonl'), 'text/jsonl', 'batch', 4)", "Cannot read gone.jsonl"),
        ("(file('big.jsonl'), 'text/jsonl', 'batch', 0)", "`part_size` wants a number of bytes, at least 1, got 0"),
    ],
)
async def test_an_upload_that_cannot_be_is_refused_before_it_begins(looks, uploads, values, says):
    session, _ = looks
    with pytest.raises(Invalid, match=says):
        await session.execute(
            f"INSERT INTO openai.uploads.uploads (file, mime_type, purpose, part_size) VALUES {values}"
        )
    assert uploads.requests == []


async def test_show_insert_gives_both_ways_to_make_an_upload(looks):
    session, _ = looks
    rows = await (await session.execute("SHOW INSERT INTO openai.uploads.uploads")).fetchall()
    assert ["file('{{ file }}')" in text for (text,) in rows] == [False, True]
