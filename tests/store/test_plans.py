"""Every list is read off an index, in its order, from its first page to its last: what the databases say they would do.

The statements are those that the store really sends, explained with their own parameters. Postgres sorts small tables
whatever indexes they have: so it is asked what it does where it would rather not, which it still does without an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import String, cast, event, func, insert, literal, select, text

from milepost.jobs import ledger
from milepost.resources.jobs import JobRequest
from milepost.store import api_keys, files, models, permissions, projects, schema, service_accounts, sweeping
from milepost.store import keys as key_store
from milepost.store.database import Database
from milepost.store.keys import Key, KeyKind
from tests.store.fixtures import BASE, NOW, administrator, upload

JOBS, EVENTS, CHECKPOINTS, OTHERS = 200, 200, 20, 400


@pytest.fixture
def busy(database: Database, key: Key) -> Database:
    """Many jobs with many events and checkpoints, and as many of everything else, in one project beside others."""
    fill(database, key, jobs=JOBS, events=EVENTS, checkpoints=CHECKPOINTS, others=OTHERS)
    return database


def fill(database: Database, key: Key, *, jobs: int, events: int, checkpoints: int, others: int) -> None:
    """Copies of one real job, file and key, straight into the tables; the events, by far the most, are counted out by the
    database.
    """
    file = upload(database, key)
    ledger.create(database, key, JobRequest(model="tiny", training_file=file.id), BASE, NOW)
    with database.transaction() as connection:
        job = connection.execute(select(schema.jobs)).mappings().one()
        row = connection.execute(select(schema.files)).mappings().one()
        organization = {"organization_id": key.organization_id, "created_at": 1}
        many_projects = [{"id": f"proj_{n}", "name": f"p{n}", **organization} for n in range(others)]
        connection.execute(insert(schema.projects), many_projects)
        many = [
            {**_new(row), "id": f"file-{n}", "created_at": n // 3, "project_id": _whose(n, key, others)}
            for n in range(others)
        ]
        connection.execute(insert(schema.files), many)
        copies = [
            {**_new(job), "id": f"ftjob-{n:04}", "created_at": n // 3, "project_id": _whose(n, key, others)}
            for n in range(jobs)
        ]
        connection.execute(insert(schema.jobs), copies)
        first = select(literal(1).label("p")).cte("numbers", recursive=True)
        numbers = first.union_all(select(first.c.p + 1).where(first.c.p < events))
        for n in range(jobs):
            mine = {
                "job_id": f"ftjob-{n:04}",
                "created_at": n,
                "level": "info",
                "type": "message",
                "message": "x",
                "data": {},
            }
            told = {
                **{column: literal(value, schema.events.c[column].type) for column, value in mine.items()},
                "id": literal(f"ftevent-{n}-") + cast(numbers.c.p, String),
                "position": numbers.c.p,
                "child_seq": numbers.c.p,
            }
            connection.execute(insert(schema.events).from_select(list(told), select(*told.values())))
            of_job = {
                "job_id": f"ftjob-{n:04}",
                "project_id": _whose(n, key, others),
                "created_at": n,
                "final": False,
                "metrics": {},
            }
            saved = [
                {**of_job, "id": f"ftckpt_{n}_{s}", "name": f"ft:{n}:{s}", "step_number": s, "adapter_sha256": "0"}
                for s in range(1, checkpoints + 1)
            ]
            connection.execute(insert(schema.checkpoints), saved)
        permission = {"checkpoint_id": "ftckpt_0_1", "created_at": 1}
        connection.execute(
            insert(schema.permissions),
            [{**permission, "id": f"cp_{n}", "project_id": f"proj_{n}"} for n in range(others)],
        )
        account = {"project_id": key.project_id, "role": "member", "created_at": 1}
        connection.execute(
            insert(schema.service_accounts), [{**account, "id": f"svc_{n}", "name": "a"} for n in range(others)]
        )
        made = {"name": "a", "hint": "a", "created_at": 1, "project_id": key.project_id}
        drawn = [
            {
                **made,
                "id": f"key_{n}",
                "kind": list(KeyKind)[n % 2],
                "secret_sha256": str(n),
                "service_account_id": None if n % 4 else f"svc_{n}",
            }
            for n in range(others)
        ]
        connection.execute(insert(schema.keys), drawn)
        answered = {"project_id": key.project_id, "request_sha256": "0", "answer": {}}
        asked = [{**answered, "key": str(n), "created_at": n} for n in range(others)]
        connection.execute(insert(schema.idempotency_keys), asked)
        connection.execute(text("ANALYZE"))


def _new(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "sequence"}


def _whose(number: int, key: Key, others: int) -> str:
    """Half of everything is the key's project's, the rest is others'."""
    return key.project_id if number % 2 == 0 else f"proj_{number % others}"


Listing = Callable[[Database, Key, Key, str | None], Any]

#: name: (what reads a page after a cursor, the cursor of a page in the middle).
LISTINGS: dict[str, tuple[Listing, str | None]] = {
    "jobs": (lambda d, k, _, after: ledger.page(d, k.project_id, after=after, limit=20), "ftjob-0100"),
    "jobs with metadata": (
        lambda d, k, _, after: ledger.page(d, k.project_id, after=after, limit=20, metadata={"a": "b"}),
        "ftjob-0100",
    ),
    "events": (lambda d, k, _, after: ledger.events_page(d, k.project_id, "ftjob-0000", after=after, limit=20), "ftevent-0-99"),
    "checkpoints": (
        lambda d, k, _, after: ledger.checkpoints_page(d, k.project_id, "ftjob-0000", after=after, limit=10),
        "ftckpt_0_9",
    ),
    "files": (
        lambda d, k, _, after: files.page(d, k.project_id, purpose=None, limit=20, order="desc", after=after, now=NOW),
        "file-200",
    ),
    "files, oldest first": (
        lambda d, k, _, after: files.page(d, k.project_id, purpose="fine-tune", limit=20, order="asc", after=after, now=NOW),
        "file-200",
    ),
    "permissions": (
        lambda d, _, b, after: permissions.page(d, b, "ft:0:1", project=None, after=after, limit=20, descending=True),
        "cp_200",
    ),
    "projects": (lambda d, _, b, after: projects.page(d, b, archived=False, after=after, limit=20), "proj_200"),
    "service accounts": (lambda d, k, b, after: service_accounts.page(d, b, k.project_id, after=after, limit=20), "svc_200"),
    "keys of a project": (
        lambda d, k, b, after: api_keys.project_page(d, b, k.project_id, access="active", after=after, limit=20),
        "key_200",
    ),
    "admin keys": (lambda d, _, b, after: api_keys.admin_page(d, b, order="asc", after=after, limit=20), "key_201"),
    "models": (lambda d, k, _, __: tuned_newest(d, k.project_id), None),
    "models of a project with one": (lambda d, _, __, ___: tuned_newest(d, "proj_7"), None),
}  # fmt: skip


def tuned_newest(database: Database, project: str) -> Any:
    with database.reading() as connection:
        return models.tuned.newest(connection, project)


def sent(database: Database, read: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The SELECTs that are sent while something is read, each with its parameters."""
    told: list[tuple[str, Any]] = []

    def hear(_connection, _cursor, statement, parameters, _context, _many) -> None:
        if statement.startswith(("SELECT", "DELETE", "UPDATE")) and "pg_advisory" not in statement:
            told.append((statement, parameters))

    event.listen(database._engine, "before_cursor_execute", hear)
    try:
        read()
    finally:
        event.remove(database._engine, "before_cursor_execute", hear)
    return told


EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}
#: What a database says of a table that it reads from end to end, and of rows that it must have all before it sorts them.
#: Of Postgres a sort over what an index gave in part (`Incremental Sort`) is not meant, nor one of a subquery's one row.
WHOLE = {
    "sqlite": re.compile(r"^SCAN (?!CONSTANT)(?!.*USING (COVERING )?INDEX)|USE TEMP B-TREE"),
    "postgresql": re.compile(r"Seq Scan on|(?<!Incremental )\bSort\b"),
}


def faults(database: Database, statements: list[tuple[str, Any]]) -> list[str]:
    dialect = database._engine.dialect.name
    found = []
    with database.reading() as connection:
        if dialect == "postgresql":
            for way in ("seqscan", "sort", "bitmapscan", "hashjoin", "mergejoin"):
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        for statement, parameters in statements:
            rows = connection.exec_driver_sql(EXPLAIN[dialect] + statement, parameters)
            found += [f"{row[-1]}   in   {statement}" for row in rows if WHOLE[dialect].search(str(row[-1]).strip())]
    return found


def test_every_listing_is_read_off_an_index_at_its_start_and_in_its_middle(busy: Database, key: Key) -> None:
    boss = administrator(busy)
    found = {
        (name, after): faults(busy, sent(busy, lambda read=read, after=after: read(busy, key, boss, after)))
        for name, (read, middle) in LISTINGS.items()
        for after in (None, middle)
    }
    assert {where: bad for where, bad in found.items() if bad} == {}


def test_the_pages_of_every_listing_have_something_to_read(busy: Database, key: Key) -> None:
    boss = administrator(busy)
    empty = {
        (name, after)
        for name, (read, middle) in LISTINGS.items()
        for after in (None, middle)
        if name != "jobs with metadata" and not getattr(page := read(busy, key, boss, after), "data", page)
    }
    assert empty == set()


def test_no_listing_asks_once_for_each_of_its_rows(busy: Database, key: Key) -> None:
    """The cursor, the page, and what both are of."""
    boss = administrator(busy)
    counts = {
        name: len(sent(busy, lambda read=read, middle=middle: read(busy, key, boss, middle)))
        for name, (read, middle) in LISTINGS.items()
    }
    assert {name: count for name, count in counts.items() if count > 4} == {}


def test_what_every_request_and_every_minute_looks_up_is_found_by_an_index(busy: Database, key: Key) -> None:
    def look() -> None:
        key_store.authenticate(busy, "sk-proj-of-the-tests-and-long-enough")
        ledger.get(busy, key.project_id, "ftjob-0000")
        files.get(busy, key.project_id, "file-0", NOW)
        sweeping.sweep(busy, 100.0)

    assert faults(busy, sent(busy, look)) == []


@pytest.mark.e2e
def test_a_page_costs_the_same_at_the_end_of_a_million_events_as_at_their_start(database: Database, key: Key) -> None:
    """Counted in rows that the database reads, which the load of the machine does not change."""
    fill(database, key, jobs=1000, events=1000, checkpoints=100, others=OTHERS)
    with database.reading() as connection:
        assert connection.scalar(select(func.count()).select_from(schema.events)) > 1_000_000
    boss = administrator(database)
    ends = {"jobs": "ftjob-0040", "events": "ftevent-0-30", "checkpoints": "ftckpt_0_20"}
    for name, last in ends.items():
        read, _ = LISTINGS[name]
        first_steps, last_steps = (
            steps(database, lambda read=read, after=after: read(database, key, boss, after)) for after in (None, last)
        )
        assert last_steps < 1.5 * first_steps + 500, name


def steps(database: Database, read: Callable[[], Any]) -> int:
    """The work of the statements: hundreds of SQLite's instructions, or Postgres' buffers."""
    statements = sent(database, read)
    with database.reading() as connection:
        if database._engine.dialect.name == "postgresql":
            plans = [
                connection.exec_driver_sql("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters).scalar()
                for statement, parameters in statements
            ]
            return sum(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] for plan in plans)
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        raw = connection.connection.driver_connection
        raw.set_progress_handler(tick, 10)
        for statement, parameters in statements:
            connection.exec_driver_sql(statement, parameters).all()
        raw.set_progress_handler(None, 0)
    return count
