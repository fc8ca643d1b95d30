"""SELECT never changes anything; a 429 slows a provider down; a query that is given up ends its requests."""

from __future__ import annotations

import asyncio
import time

import httpx2
import pytest

from milepost.errors import Remote
from milepost.sql.catalog import shipped
from milepost.sql.functions import READS_BY_FUNCTION
from milepost.sql.gate import Gate, retry_after_s
from milepost.sql.parse import parse
from milepost.sql.session import Session, openai_provider

READING_POSTS = {"vector_stores.search"} | READS_BY_FUNCTION
#: What a table's required parameters are given.
GIVEN = {"integer": "1", "number": "1.5", "boolean": "true"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_select_of_every_table_sends_only_reads():
    """Over the whole catalog: what goes out is GET, or a POST of the list."""
    sent: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(f"{request.method} {request.url.path}")
        return httpx2.Response(200, json={"object": "list", "data": [], "has_more": False})

    def provider(root):
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
        return openai_provider(root, base_url="http://x/v1", api_key="k", root=root, http_client=client)

    count = 0
    async with Session({root: provider(root) for root in ("openai", "openai_admin")}) as session:
        for root in ("openai", "openai_admin"):
            for name in shipped().names(root):
                table = shipped().table(*name.split("."))
                for method in table.selects:
                    held = [
                        f"{name} = {GIVEN.get(str(parameter.type), repr('x'))}"
                        for name in method.required
                        if (parameter := method.parameter(name))
                    ]
                    where = f" WHERE {' AND '.join(held)}" if held else ""
                    rows = await session.execute(f"SELECT 1 FROM {table.name}{where}")
                    await rows.fetchall()
                    count += 1
    assert count > 150
    assert {line for line in sent if not line.startswith("GET ")} == {"POST /v1/vector_stores/x/search"}


def test_what_may_be_sent_again_is_what_reads():
    methods = [
        m
        for root in ("openai", "openai_admin")
        for n in shipped().names(root)
        for m in shipped().table(*n.split(".")).methods
    ]
    assert {m.path for m in methods if m.verb == "SELECT" and m.http != "GET"} <= READING_POSTS
    assert {m.path for m in methods if m.http == "GET" and m.verb not in ("SELECT", "EXEC")} == set()


# --- 429 --------------------------------------------------------------------------------------------------------------


async def test_a_429_holds_back_every_request_and_is_told(fake):
    told: list[tuple[str, float, str | None]] = []
    answer, refused_at, later = fake.answer, [], []

    def busy(request: httpx2.Request) -> httpx2.Response:
        if "ftjob-1" in request.url.path and not refused_at:
            refused_at.append(time.monotonic())
            return httpx2.Response(
                429, json={"error": {"message": "slow"}}, headers={"retry-after": "0.2", "x-request-id": "req_3"}
            )
        if refused_at:
            later.append(time.monotonic() - refused_at[0])
        return answer(request)

    fake.answer = busy
    provider = fake.provider(max_retries=2)
    async with Session({"openai": provider}, on_wait=lambda p, s, i: told.append((p.name, s, i))) as session:
        rows = await session.execute(
            "SELECT j.id, c.id FROM openai.fine_tuning.jobs j LEFT JOIN openai.fine_tuning.job_checkpoints c ON c.fine_tuning_job_id = j.id"
        )
        assert len(await rows.fetchall()) == 4
    assert told == [("openai", 0.2, "req_3")]
    assert max(later) >= 0.2


async def test_insufficient_quota_is_not_waited_out(fake):
    fake.broken["/v1/files"] = httpx2.Response(429, json={"error": {"message": "pay", "code": "insufficient_quota"}})
    async with Session({"openai": fake.provider(max_retries=9)}) as session:
        with pytest.raises(Remote, match="pay"):
            await session.execute("SELECT id FROM openai.files.files")
    assert len(fake.requests) == 1


async def test_a_gate_halves_after_a_429_and_grows_again():
    gate, most, now = Gate(8), 0, 0

    async def one() -> None:
        nonlocal most, now
        async with gate:
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 8
    gate.slow_down(0, None)
    most = 0
    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 4
    for _ in range(4):
        gate.speed_up()
    most = 0
    await asyncio.gather(*(one() for _ in range(20)))
    assert most == 8


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [({"retry-after-ms": "1500"}, 1.5), ({"retry-after": "3"}, 3.0), ({"retry-after": "soon"}, None), ({}, None), ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0)],
)  # fmt: skip
def test_retry_after_is_milliseconds_seconds_or_a_date(headers, wait_s):
    assert retry_after_s(headers) == wait_s


# --- giving up --------------------------------------------------------------------------------------------------------


async def test_a_query_that_is_given_up_ends_its_requests(fake):
    begun, ended = asyncio.Event(), []

    async def hang(request: httpx2.Request) -> httpx2.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.url.path)

    fake.answer = hang
    async with Session({"openai": fake.provider()}) as session:
        asking = asyncio.create_task(session.execute("SELECT * FROM openai.files.files, openai.fine_tuning.jobs"))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert "/v1/files" in ended


async def test_an_error_ends_what_other_tables_wait_for(fake):
    fake.broken["/v1/fine_tuning/jobs"] = httpx2.Response(400, json={"error": {"message": "no"}})
    answer, hanging, ended = fake.answer, asyncio.Event(), []

    async def hang(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/v1/files":
            await hanging.wait()
            return answer(request)
        hanging.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.url.path)

    fake.answer = hang
    async with Session({"openai": fake.provider()}) as session:
        with pytest.raises(Remote, match="no"):
            await session.execute(
                "SELECT 1 FROM openai.files.files a, openai.files.files b, openai.fine_tuning.jobs WHERE a.bytes = b.bytes"
            )
        assert ended == ["/v1/files"]


async def test_rows_that_are_not_read_ask_no_more(fake):
    fake.lists["/v1/fine_tuning/jobs/ftjob-1/events"] *= 10
    for number, event in enumerate(fake.lists["/v1/fine_tuning/jobs/ftjob-1/events"]):
        fake.lists["/v1/fine_tuning/jobs/ftjob-1/events"][number] = event | {"id": f"e{number}"}
    async with Session({"openai": fake.provider()}) as session:
        rows = await session.execute(
            "SELECT id FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1'"
        )
        await rows.aclose()
        asked = len(fake.requests)
    assert asked == len(fake.requests) < 25


async def test_an_error_in_the_middle_of_a_list_is_the_querys(ask, fake):
    answer = fake.answer

    def breaks(request: httpx2.Request) -> httpx2.Response:
        if len(fake.requests) >= 2:
            return httpx2.Response(500, text="gone")
        return answer(request)

    fake.answer = breaks
    with pytest.raises(Remote, match="gone"):
        await ask("SELECT count(*) FROM openai.fine_tuning.job_events WHERE fine_tuning_job_id = 'ftjob-1'")


async def test_on_error_continue_leaves_out_what_failed(fake):
    async with Session({"openai": fake.provider()}) as session:
        rows = await session.execute(
            "SELECT id FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id IN ('ftjob-2', 'ftjob-99') ON ERROR CONTINUE"
        )
        assert await rows.fetchall() == [("ftckpt_ftjob-2_1",)]
        assert [error.status for error in rows.errors] == [404]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT j FROM openai.fine_tuning.jobs j WHERE j.id = 'ftjob-1'",
        "SELECT to_json(jobs) FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'",
        "SELECT COLUMNS('^status$') FROM openai.fine_tuning.jobs WHERE id = 'ftjob-1'",
        "SELECT x FROM (SELECT #12 AS x, #1, id FROM openai.fine_tuning.jobs) WHERE id = 'ftjob-1'",
        "SELECT list_transform([j], x -> x.status) FROM openai.fine_tuning.jobs j WHERE id = 'ftjob-1'",
        "SELECT a FROM (SELECT a FROM openai.fine_tuning.jobs NATURAL JOIN (SELECT 'succeeded' AS status, status AS a FROM openai.fine_tuning.jobs))",
        "SELECT (SELECT j) FROM openai.fine_tuning.jobs j WHERE id = 'ftjob-1'",
        "SELECT u FROM (UNPIVOT openai.fine_tuning.jobs ON status INTO NAME n VALUE u)",
        "SELECT s FROM (SELECT j.* FROM openai.fine_tuning.jobs j) AS s WHERE s.id = 'ftjob-1'",
    ],
)
async def test_columns_that_no_name_asks_for_are_there(ask, sql):
    assert "succeeded" in str(await ask(sql))


async def test_every_column_that_a_query_names_is_made(session):
    """And no other: whatever the parser takes its name for, under any spelling."""
    for root in ("openai", "openai_admin"):
        for table in (shipped().table(*name.split(".")) for name in shipped().names(root)):
            if not table.selects:
                continue
            method = min(table.selects, key=lambda method: len(method.required))
            kinds = {name: method.parameter(name).type for name in method.required}
            where = "".join(f" AND {name} = {1 if kind == 'integer' else repr('x')}" for name, kind in kinds.items())
            _, *named = [column.name for column in table.columns]
            shown = ", ".join(f'"{name}"' if n % 2 else f'"{name.upper()}"' for n, name in enumerate(named))
            made = session.plan(parse(f"SELECT {shown or 1} FROM {table.name} WHERE true{where}", {}).tree)
            wanted = {column.name for column in made.reads[0].wanted}
            assert set(named) <= wanted, table.name
            assert table.columns[0].name in {*kinds, *wanted} or wanted == set(named), table.name
    made = session.plan(parse("SELECT object, status, seed FROM openai.fine_tuning.jobs", {}).tree)
    assert {column.name for column in made.reads[0].wanted} == {"object", "status", "seed"}
    counted = session.plan(parse("SELECT count(*), max(seed) FROM openai.fine_tuning.jobs", {}).tree)
    assert [column.name for column in counted.reads[0].wanted] == ["seed"]
