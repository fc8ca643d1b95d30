"""AWAIT looks again until what it shows is final, or there."""

from __future__ import annotations

import pytest

from milepost.errors import Conflict, Invalid, TimedOut
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
    "suspended", "unhealthy", "uploaded", "validated",
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
        ("INSERT /*+ AWAIT */ INTO openai.uploads.uploads (bytes, filename, mime_type, purpose) VALUES (3, 'a', 'text/jsonl', 'batch')", "no call that reads one"),
        ("INSERT /*+ AWAIT */ INTO openai.conversations.conversations (metadata) VALUES ('{}')", "no status to wait for"),
    ],
)  # fmt: skip
async def test_what_cannot_be_waited_for_is_refused_before_it_is_sent(looks, fake, sql, says):
    session, _ = looks
    with pytest.raises(Invalid, match=says):
        await session.execute(sql)
    assert fake.requests == []
