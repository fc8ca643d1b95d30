"""Random queries give the same rows through Milepost as through DuckDB over a full download of the same data.

The server gives three rows a page, answers one request in eight with 429, and adds a row to a list while it is read.
`DIFFERENTIAL=5000 pytest tests/sql/test_differential.py` runs more of them, `DIFFERENTIAL_FROM=9000` others; a seed that
once failed stays in KEPT.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import duckdb
import httpx2
import pytest

from milepost.sql import arrow, shapes
from milepost.sql.catalog import Column, shipped
from milepost.sql.session import Session
from tests.sql.conftest import FakeOpenAI, a_checkpoint, a_job, an_event

FIRST, COUNT = int(os.environ.get("DIFFERENTIAL_FROM", "0")), int(os.environ.get("DIFFERENTIAL", "150"))
KEPT = (194, 252, 646, 680, 706, 722, 841, 851)
NAMES = {
    "jobs": "openai.fine_tuning.jobs",
    "ckpts": "openai.fine_tuning.job_checkpoints",
    "events": "openai.fine_tuning.job_events",
    "files": "openai.files.files",
}


# --- the data ---------------------------------------------------------------------------------------------------------


class BusyOpenAI(FakeOpenAI):
    """Small pages, some 429s, and a new row on top of a list between its pages, as long as `changing`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.changing = True
        dice = random.Random(7)
        jobs = [
            a_job(n, status=dice.choice(["succeeded", "failed", "running"]), model=dice.choice("ab"),
                  training_file=f"file-{dice.randrange(6)}", fine_tuned_model=dice.choice([None, f"ft:{n}"]))
            for n in range(9, 0, -1)
        ]  # fmt: skip
        self.lists = {
            "/v1/fine_tuning/jobs": jobs,
            "/v1/files": [
                {"id": f"file-{n}", "purpose": dice.choice(["batch", "fine-tune"]), "bytes": dice.randrange(99), "created_at": n, "filename": f"{n}.jsonl"}
                for n in range(7, -1, -1)
            ],
        }  # fmt: skip
        for job in jobs:
            path = f"/v1/fine_tuning/jobs/{job['id']}"
            self.lists[f"{path}/checkpoints"] = [
                a_checkpoint(job["id"], step) for step in range(dice.randrange(6), 0, -1)
            ]
            self.lists[f"{path}/events"] = [
                an_event(n) | {"id": f"{job['id']}-e{n}"} for n in range(dice.randrange(8), 0, -1)
            ]

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        if self.chance.random() < 0.125:
            return httpx2.Response(429, json={"error": {"message": "slow"}}, headers={"retry-after-ms": "0.1"})
        path = request.url.path
        if path in self.lists and path != "/v1/files" and "after" in request.url.params and self.changing:
            new = {**self.lists[path][0], "id": f"new-{self.chance.random()}"}
            if not self.lists[path][0]["id"].startswith("new-"):
                self.lists[path].insert(0, new)
        return super().answer(request)

    def _page(self, path: str, asked: httpx2.QueryParams) -> dict[str, Any]:
        return super()._page(path, asked.set("limit", str(min(3, int(asked.get("limit", 3))))))

    def forget(self) -> None:
        for items in self.lists.values():
            items[:] = [item for item in items if not item["id"].startswith("new-")]


def downloaded(fake: FakeOpenAI) -> duckdb.DuckDBPyConnection:
    """All of it in plain DuckDB, with the job of an event in a column of its own."""
    found: dict[str, list[dict[str, Any]]] = {"jobs": fake.lists["/v1/fine_tuning/jobs"], "files": fake.lists["/v1/files"], "ckpts": [], "events": []}  # fmt: skip
    for path, items in fake.lists.items():
        job = path.split("/")[4] if path.count("/") > 4 else ""
        if path.endswith("checkpoints"):
            found["ckpts"] += items
        if path.endswith("events"):
            found["events"] += [{**item, "fine_tuning_job_id": job} for item in items]
    database = duckdb.connect()
    for name, rows in found.items():
        columns = shipped().table(*NAMES[name].split(".")).columns
        if name == "events":
            columns = (*columns, Column("fine_tuning_job_id", "string", ""))
        database.register(f"{name}_raw", arrow.rows_of(columns, rows, name))
        database.execute(f"CREATE TABLE {name} AS SELECT {shapes.projection(columns)} FROM {name}_raw")
    return database


# --- the grammar ------------------------------------------------------------------------------------------------------

COLUMNS = {
    "jobs": ["id", "status", "model", "trained_tokens", "training_file", "fine_tuned_model"],
    "ckpts": ["id", "fine_tuning_job_id", "step_number", "metrics.train_loss"],
    "events": ["id", "created_at", "level"],
    "files": ["id", "purpose", "bytes"],
}
FILTERS = {
    "jobs": ["{}.status = 'succeeded'", "{}.trained_tokens > 3", "{}.model IN ('a', 'c')", "{}.id <> 'ftjob-2'", "{}.fine_tuned_model IS NULL", "({}.status = 'failed' OR {}.trained_tokens < 6)", "{}.id IN ('ftjob-1', 'ftjob-5', 'ftjob-99')", "{}.id = 'ftjob-4'"],
    "ckpts": ["{}.step_number > 1", "{}.metrics.train_loss < 6", "json_extract({}.metrics, '$.full_valid_loss') > 9.9", "{}.step_number = 2"],
    "events": ["{}.created_at > 2", "{}.id LIKE '%e3'", "{}.level = 'info'"],
    "files": ["{}.purpose = 'batch'", "{}.bytes > 50", "{}.purpose IN ('batch', 'fine-tune')", "{}.id = 'file-3'"],
}  # fmt: skip
CHILDREN = ("ckpts", "events")
JOBS_OF = ["'ftjob-1'", "'ftjob-3', 'ftjob-7'", "SELECT id FROM jobs WHERE trained_tokens < 5", "SELECT id FROM jobs ORDER BY id DESC LIMIT 3", "SELECT max(id) FROM jobs"]  # fmt: skip


class Grammar:
    """A query for each seed. What it makes is total: no LIMIT without an order that tells all rows apart."""

    def __init__(self, seed: int) -> None:
        self.seed, self.dice = seed, random.Random(seed)
        self.names = 0

    def query(self) -> str:
        newer = (
            [] if self.seed in KEPT else [self.pairs, self.full, self.by_ids, self.mixed]
        )  # a kept seed means the query it meant
        made = self.pick([self.simple, self.join, self.grouped, self.correlated, self.cte, self.union, self.window, self.three, self.lateral, self.nested, *newer])()  # fmt: skip
        return made if self.dice.random() < 0.7 else f"SELECT * FROM ({made}) AS around"

    def pick(self, among: Any) -> Any:
        return self.dice.choice(list(among))

    def alias(self) -> str:
        self.names += 1
        return f"t{self.names}"

    def filters(self, table: str, alias: str) -> list[str]:
        return [text.replace("{}", alias) for text in self.dice.sample(FILTERS[table], self.dice.randrange(3))]

    def where(self, *conditions: str) -> str:
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def held(self, table: str, alias: str) -> list[str]:
        if table not in CHILDREN:
            return []
        jobs = self.pick(JOBS_OF)
        column = f"{alias}.fine_tuning_job_id"
        return [f"{column} = ({jobs})" if "max" in jobs else f"{column} IN ({jobs})"]

    def columns(self, table: str, alias: str) -> str:
        chosen = self.dice.sample(COLUMNS[table], self.dice.randint(1, 3))
        return ", ".join(f"{alias}.{column} AS {alias}_{n}" for n, column in enumerate(chosen))

    def simple(self) -> str:
        table, t = self.pick(NAMES), self.alias()
        conditions = [*self.held(table, t), *self.filters(table, t)]
        end = f" ORDER BY {t}.id LIMIT {self.dice.randrange(6)}" if self.dice.random() < 0.4 else ""
        return f"SELECT {self.columns(table, t)} FROM {table} AS {t}{self.where(*conditions)}{end}"

    def on(self, child: str, t: str, j: str) -> str:
        return " AND ".join(
            [f"{t}.fine_tuning_job_id = {j}.id", *(self.filters(child, t) if self.dice.random() < 0.4 else [])]
        )

    def join(self) -> str:
        child, j, t = self.pick(CHILDREN), self.alias(), self.alias()
        kind = self.pick(["JOIN", "LEFT JOIN", "SEMI JOIN", "ANTI JOIN", "RIGHT JOIN"])
        conditions = self.filters("jobs", j)
        if kind == "RIGHT JOIN":
            source, shown = f"{child} AS {t} RIGHT JOIN jobs AS {j} ON {self.on(child, t, j)}", True
        else:
            source, shown = (
                f"jobs AS {j} {kind} {child} AS {t} ON {self.on(child, t, j)}",
                kind in ("JOIN", "LEFT JOIN"),
            )
        conditions += self.filters(child, t) if shown and self.dice.random() < 0.5 else []
        columns = f"{self.columns('jobs', j)}, {self.columns(child, t)}" if shown else self.columns("jobs", j)
        return f"SELECT {columns} FROM {source}{self.where(*conditions)}"

    def grouped(self) -> str:
        child, j, t = self.pick(CHILDREN), self.alias(), self.alias()
        kind = self.pick(["JOIN", "LEFT JOIN"])
        having = self.pick(["", " HAVING count(*) > 1"])
        return f"SELECT {j}.status, {j}.model, count({t}.id) AS n, min({t}.id) AS least FROM jobs AS {j} {kind} {child} AS {t} ON {self.on(child, t, j)}{self.where(*self.filters('jobs', j))} GROUP BY ALL{having}"

    def correlated(self) -> str:
        child, j, t = self.pick(CHILDREN), self.alias(), self.alias()
        inner = f"FROM {child} AS {t} WHERE {self.on(child, t, j)}"
        conditions = self.filters("jobs", j)
        if self.dice.random() < 0.5:
            conditions.append(f"{self.pick(['', 'NOT '])}EXISTS (SELECT 1 {inner})")
            return f"SELECT {self.columns('jobs', j)} FROM jobs AS {j}{self.where(*conditions)}"
        return f"SELECT {j}.id, (SELECT count(*) {inner}) AS n FROM jobs AS {j}{self.where(*conditions)}"

    def cte(self) -> str:
        child, w, t = self.pick(CHILDREN), self.alias(), self.alias()
        limit = self.pick(["", " ORDER BY id LIMIT 4"])
        twice = f" UNION ALL SELECT {w}.j, {w}.s FROM {w}" if self.dice.random() < 0.3 else ""
        return f"WITH {w}(j, s) AS (SELECT id, status FROM jobs{self.where(*self.filters('jobs', 'jobs'))}{limit}) SELECT {w}.s, {t}.id FROM {w} JOIN {child} AS {t} ON {t}.fine_tuning_job_id = {w}.j{twice}"

    def union(self) -> str:
        one, two = self.simple_ids(), self.simple_ids()
        return f"{one} {self.pick(['UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT'])} {two}"

    def simple_ids(self) -> str:
        table, t = self.pick(NAMES), self.alias()
        return f"SELECT {t}.id FROM {table} AS {t}{self.where(*self.held(table, t), *self.filters(table, t))}"

    def window(self) -> str:
        table, t = self.pick(NAMES), self.alias()
        order = f"row_number() OVER (PARTITION BY length({t}.id) ORDER BY {t}.id)"
        return f"SELECT {t}.id, {order} AS n FROM {table} AS {t}{self.where(*self.held(table, t), *self.filters(table, t))} QUALIFY {order} <= {self.dice.randint(1, 4)}"

    def three(self) -> str:
        child, j, t, f = self.pick(CHILDREN), self.alias(), self.alias(), self.alias()
        kind = self.pick(["JOIN", "LEFT JOIN", "FULL JOIN"])
        conditions = self.filters("files", f) + self.filters("jobs", j)
        return f"SELECT {j}.id, {f}.purpose, count(*) AS n FROM jobs AS {j} JOIN {child} AS {t} ON {self.on(child, t, j)} {kind} files AS {f} ON {f}.id = {j}.training_file{self.where(*conditions)} GROUP BY ALL"

    def lateral(self) -> str:
        child, j, t = self.pick(CHILDREN), self.alias(), self.alias()
        return f"SELECT {j}.id, x.id AS last FROM jobs AS {j}, LATERAL (SELECT {t}.id FROM {child} AS {t} WHERE {self.on(child, t, j)} ORDER BY {t}.id LIMIT {self.dice.randint(1, 2)}) AS x{self.where(*self.filters('jobs', j))}"

    def nested(self) -> str:
        j, d, t = self.alias(), self.alias(), self.alias()
        inner = f"SELECT fine_tuning_job_id AS job, count(*) AS n, max({t}.id) AS top FROM ckpts AS {t}{self.where(*self.filters('ckpts', t))} GROUP BY fine_tuning_job_id"
        kind = self.pick(["JOIN", "LEFT JOIN"])
        return f"SELECT {j}.id, {d}.n, {d}.top FROM jobs AS {j} {kind} ({inner}) AS {d} ON {d}.job = {j}.id{self.where(*self.filters('jobs', j))}"

    def pairs(self) -> str:
        t = self.alias()
        jobs = self.where(*self.filters("jobs", "jobs"))
        rows = self.pick(
            [
                "('ftjob-1', 2), ('ftjob-3', 1), ('ftjob-2', 99)",
                f"SELECT id, trained_tokens FROM jobs{jobs}",
                "('ftjob-3', 1)",
            ]
        )
        return f"SELECT {t}.id FROM ckpts AS {t}{self.where(f'({t}.fine_tuning_job_id, {t}.step_number) IN ({rows})', *self.filters('ckpts', t))}"

    def mixed(self) -> str:
        """Values and queries of values in one list, or with OR between them."""
        child, t = self.pick(CHILDREN), self.alias()
        column, jobs = f"{t}.fine_tuning_job_id", self.where(*self.filters("jobs", "jobs"))
        values = self.dice.sample(["'ftjob-1'", "'ftjob-' || 4", "lower('FTJOB-7')", "'ftjob-6'"], 2)
        one = f"(SELECT {self.pick(['max', 'min'])}(id) FROM jobs{jobs})"
        many = f"SELECT id FROM jobs{jobs} ORDER BY id LIMIT {self.dice.randint(0, 3)}"
        held = self.pick(
            [
                f"{column} IN ({', '.join(values)}, {one})",
                f"({column} = {values[0]} OR {column} = {one} OR {column} IN ({many}))",
                f"{column} = ANY (SELECT * FROM ({many}) AS ids)",
                f"{column} = {values[0]}",
            ]
        )
        return f"SELECT {t}.id, {column} FROM {child} AS {t}{self.where(held, *self.filters(child, t))}"

    def full(self) -> str:
        child, j, f, t = self.pick(CHILDREN), self.alias(), self.alias(), self.alias()
        kind = self.pick(["FULL JOIN", "RIGHT JOIN", "LEFT JOIN"])
        conditions = self.filters("files", f) + self.filters("jobs", j)
        return f"SELECT {j}.id, {f}.id AS f, {t}.id AS c FROM jobs AS {j} {kind} files AS {f} ON {f}.id = {j}.training_file {self.pick(['JOIN', 'LEFT JOIN'])} {child} AS {t} ON {self.on(child, t, j)}{self.where(*conditions)}"

    def by_ids(self) -> str:
        f, j, jobs = self.alias(), self.alias(), self.where(*self.filters("jobs", "jobs"))
        ids = self.pick([f"SELECT training_file FROM jobs{jobs}", f"SELECT max(training_file) FROM jobs{jobs}"])
        wanted = f"{f}.id = ({ids})" if "max" in ids else f"{f}.id IN ({ids})"
        if self.dice.random() < 0.5:
            end = f" ORDER BY {f}.id LIMIT {self.dice.randrange(4)}" if self.dice.random() < 0.4 else ""
            return f"SELECT {self.columns('files', f)} FROM files AS {f}{self.where(wanted, *self.filters('files', f))}{end}"
        kind = self.pick(["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"])
        shown = f"{j}.id" if kind in ("SEMI JOIN", "ANTI JOIN") else f"{j}.id, {f}.id AS f"
        on = self.pick([f" AND {wanted}", ""])
        where = self.where(wanted, *self.filters("files", f)) if shown != f"{j}.id" and not on else ""
        return f"SELECT {shown} FROM jobs AS {j} {kind} files AS {f} ON {f}.id = {j}.training_file{on}{where}"


def through_milepost(sql: str) -> str:
    for name, ours in NAMES.items():
        for before in ("FROM ", "JOIN "):
            sql = sql.replace(f"{before}{name} ", f"{before}{ours} ").replace(f"{before}{name})", f"{before}{ours})")
    return sql.replace(" jobs.", f" {NAMES['jobs']}.").replace("(jobs.", f"({NAMES['jobs']}.")


def plain(sql: str) -> str:
    return sql.replace("json_extract(", "json_extract(").replace(
        "'$.full_valid_loss') >", "'$.full_valid_loss')::DOUBLE >"
    )


# --- the test ---------------------------------------------------------------------------------------------------------


def in_any_order(rows: list[tuple[Any, ...]]) -> list[str]:
    return sorted(map(repr, rows))


def batches(size: int) -> Iterator[range]:
    for start in range(FIRST, FIRST + COUNT, size):
        yield range(start, min(start + size, FIRST + COUNT))


@pytest.mark.parametrize(
    "seeds", [KEPT, *batches(50)], ids=lambda seeds: f"{min(seeds, default=0)}-{max(seeds, default=0)}"
)
async def test_the_rows_are_those_of_plain_duckdb(seeds):
    fake = BusyOpenAI(seed=1)
    database = downloaded(fake)
    async with Session({"openai": fake.provider(max_retries=9)}) as session:
        for seed in seeds:
            sql = Grammar(seed).query()
            expected = database.execute(plain(sql)).fetchall()
            rows = await session.execute(through_milepost(sql))
            found = await rows.fetchall()
            fake.forget()
            assert in_any_order(found) == in_any_order(expected), f"seed {seed}: {sql}"


def test_the_server_is_busy_and_its_lists_change():
    fake = BusyOpenAI(seed=1)

    def ask(path: str) -> httpx2.Response:
        return fake.answer(httpx2.Request("GET", f"http://x{path}"))

    assert 429 in {ask("/v1/files").status_code for _ in range(60)}
    while ask("/v1/fine_tuning/jobs?after=ftjob-7").status_code == 429:
        pass
    assert fake.lists["/v1/fine_tuning/jobs"][0]["id"].startswith("new-")
