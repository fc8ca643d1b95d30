"""Where the values of required parameters come from: each query gives the rows, by exactly these requests."""

from __future__ import annotations

import pytest

from milepost.errors import Invalid, Remote

JOBS = "GET /v1/fine_tuning/jobs?limit=100"
C1, C2, C3 = (f"GET /v1/fine_tuning/jobs/ftjob-{n}/checkpoints?limit=100" for n in (1, 2, 3))
CKPT = "openai.fine_tuning.job_checkpoints"
ALL = [("ftjob-1", 1), ("ftjob-1", 2), ("ftjob-2", 1)]


QUERIES = {
    "on": (
        f"SELECT j.id, c.step_number FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id ORDER BY ALL",
        ALL,
        [JOBS, C1, C2, C3],
    ),
    "comma and WHERE": (
        f"SELECT j.id, c.step_number FROM {CKPT} c, openai.fine_tuning.jobs j WHERE c.fine_tuning_job_id = j.id AND j.trained_tokens < 3 ORDER BY ALL",
        ALL,
        [JOBS, C1, C2],
    ),
    "using a parameter that one side does not show": (
        f"SELECT fine_tuning_job_id, step_number FROM openai.fine_tuning.jobs j JOIN {CKPT} c USING (fine_tuning_job_id) ORDER BY ALL",
        ALL,
        [JOBS, C1, C2, C3],
    ),
    "using a parameter that neither side shows": (
        "SELECT j.id, count(*) FROM openai.fine_tuning.jobs j JOIN openai.fine_tuning.job_events e USING (fine_tuning_job_id) WHERE j.id = 'ftjob-1' AND e.created_at > 0 GROUP BY 1",
        [("ftjob-1", 250)],
        [
            "GET /v1/fine_tuning/jobs/ftjob-1",
            *(
                f"GET /v1/fine_tuning/jobs/ftjob-1/events?{rest}limit=100"
                for rest in ("", "after=ftevent-151&", "after=ftevent-51&")
            ),
        ],
    ),
    "left join": (
        f"SELECT j.id, count(c.id) FROM openai.fine_tuning.jobs j LEFT JOIN {CKPT} c ON c.fine_tuning_job_id = j.id GROUP BY 1 ORDER BY 1",
        [("ftjob-1", 2), ("ftjob-2", 1), ("ftjob-3", 0)],
        [JOBS, C1, C2, C3],
    ),
    "right join": (
        f"SELECT j.id, count(c.id) FROM {CKPT} c RIGHT JOIN openai.fine_tuning.jobs j ON c.fine_tuning_job_id = j.id WHERE j.trained_tokens > 1 GROUP BY 1 ORDER BY 1",
        [("ftjob-2", 1), ("ftjob-3", 0)],
        [JOBS, C1, C2, C3],
    ),
    "semi join": (
        f"SELECT j.id FROM openai.fine_tuning.jobs j SEMI JOIN {CKPT} c ON c.fine_tuning_job_id = j.id ORDER BY 1",
        [("ftjob-1",), ("ftjob-2",)],
        [JOBS, C1, C2, C3],
    ),
    "anti join": (
        f"SELECT j.id FROM openai.fine_tuning.jobs j ANTI JOIN {CKPT} c ON c.fine_tuning_job_id = j.id",
        [("ftjob-3",)],
        [JOBS, C1, C2, C3],
    ),
    "full join, held by WHERE": (
        f"SELECT v.n, c.step_number FROM {CKPT} c FULL JOIN (VALUES (1)) v(n) ON v.n = c.step_number WHERE c.fine_tuning_job_id = 'ftjob-1' ORDER BY 2",
        [(1, 1), (None, 2)],
        [C1],
    ),
    "a join in parentheses": (
        f"SELECT v.n, j.id, c.step_number FROM (VALUES ('ftjob-2')) v(n) LEFT JOIN (openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id) ON v.n = j.id",
        [("ftjob-2", "ftjob-2", 1)],
        [JOBS, C2],
    ),
    "from first": (
        f"FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id SELECT j.id, c.step_number ORDER BY ALL",
        ALL,
        [JOBS, C1, C2, C3],
    ),
    "in a subquery": (
        f"SELECT fine_tuning_job_id, step_number FROM {CKPT} WHERE fine_tuning_job_id IN (SELECT id FROM openai.fine_tuning.jobs WHERE trained_tokens <= 2) ORDER BY ALL",
        ALL,
        [JOBS, C1, C2],
    ),
    "in a subquery with a limit, computed once": (
        f"SELECT fine_tuning_job_id, count(*) FROM {CKPT} WHERE fine_tuning_job_id IN (SELECT id FROM openai.fine_tuning.jobs ORDER BY created_at LIMIT 1) GROUP BY 1",
        [("ftjob-1", 2)],
        [JOBS, C1],
    ),
    "a scalar subquery": (
        f"SELECT step_number FROM {CKPT} WHERE fine_tuning_job_id = (SELECT max(id) FROM openai.fine_tuning.jobs WHERE trained_tokens < 3)",
        [(1,)],
        [JOBS, C2],
    ),
    "correlated, in WHERE": (
        f"SELECT j.id FROM openai.fine_tuning.jobs j WHERE EXISTS (SELECT 1 FROM {CKPT} c WHERE c.fine_tuning_job_id = j.id AND c.step_number = 2)",
        [("ftjob-1",)],
        [JOBS, C1, C2, C3],
    ),
    "correlated, in SELECT, narrowed by the WHERE around": (
        f"SELECT id, (SELECT max(step_number) FROM {CKPT} c WHERE c.fine_tuning_job_id = j.id) AS last FROM openai.fine_tuning.jobs j WHERE trained_tokens > 1 ORDER BY 1",
        [("ftjob-2", 1), ("ftjob-3", None)],
        [JOBS, C2, C3],
    ),
    "lateral": (
        f"SELECT j.id, best.step_number FROM openai.fine_tuning.jobs j, LATERAL (SELECT * FROM {CKPT} c WHERE c.fine_tuning_job_id = j.id ORDER BY metrics.full_valid_loss LIMIT 1) best ORDER BY 1",
        [("ftjob-1", 1), ("ftjob-2", 1)],
        [JOBS, C1, C2, C3],
    ),
    "a CTE": (
        f"WITH wanted AS (SELECT id FROM openai.fine_tuning.jobs ORDER BY id LIMIT 2) SELECT w.id, c.step_number FROM wanted w JOIN {CKPT} c ON c.fine_tuning_job_id = w.id ORDER BY ALL",
        ALL,
        [JOBS, C1, C2],
    ),
    "a CTE of a CTE with names of its own": (
        (
            "WITH a(x) AS (SELECT id FROM openai.fine_tuning.jobs), b(y, z) AS (SELECT x, 'k' FROM a WHERE x < 'ftjob-3') "
            f"SELECT y, z, step_number FROM b, {CKPT} WHERE fine_tuning_job_id = y ORDER BY ALL"
        ),
        [("ftjob-1", "k", 1), ("ftjob-1", "k", 2), ("ftjob-2", "k", 1)],
        [JOBS, C1, C2],
    ),
    "a recursive CTE": (
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2) "
            f"SELECT n.i, count(*) FROM n JOIN {CKPT} c ON c.fine_tuning_job_id = 'ftjob-' || n.i GROUP BY 1 ORDER BY 1"
        ),
        [(1, 2), (2, 1)],
        [C1, C2],
    ),
    "around a CTE": (
        f"WITH c AS (SELECT fine_tuning_job_id AS job, step_number FROM {CKPT}) SELECT job, step_number FROM c WHERE job IN ('ftjob-1', 'ftjob-2') ORDER BY ALL",
        ALL,
        [C1, C2],
    ),
    "around a subquery with a union": (
        f"SELECT * FROM (SELECT fine_tuning_job_id AS job, step_number FROM {CKPT} UNION ALL SELECT fine_tuning_job_id, -step_number FROM {CKPT}) WHERE job = 'ftjob-2' ORDER BY ALL",
        [("ftjob-2", -1), ("ftjob-2", 1)],
        [C2],
    ),
    "joined around a subquery with a group": (
        f"SELECT j.id, s.n FROM openai.fine_tuning.jobs j JOIN (SELECT fine_tuning_job_id, count(*) AS n FROM {CKPT} GROUP BY fine_tuning_job_id) s ON s.fine_tuning_job_id = j.id ORDER BY ALL",
        [("ftjob-1", 2), ("ftjob-2", 1)],
        [JOBS, C1, C2, C3],
    ),
    "through a column that is equal": (
        f"SELECT a.step_number FROM {CKPT} a JOIN {CKPT} b ON a.fine_tuning_job_id = b.fine_tuning_job_id AND a.id = b.id JOIN openai.fine_tuning.jobs j ON j.id = b.fine_tuning_job_id WHERE j.trained_tokens = 2",
        [(1,)],
        [JOBS, C2],
    ),
    "values": (
        f"SELECT v.id, c.step_number FROM (VALUES ('ftjob-2'), ('ftjob-1'), ('ftjob-1')) v(id) JOIN {CKPT} c ON c.fine_tuning_job_id = v.id ORDER BY ALL",
        [("ftjob-1", 1), ("ftjob-1", 1), ("ftjob-1", 2), ("ftjob-1", 2), ("ftjob-2", 1)],
        [C1, C2],
    ),
    "a list unnested": (
        f"SELECT t.id, c.step_number FROM openai.fine_tuning.jobs j, unnest([j.id, j.fine_tuned_model]) t(id), {CKPT} c WHERE c.fine_tuning_job_id = t.id ORDER BY ALL",
        ALL,
        [JOBS, C1, C2, C3],
    ),
    "an expression": (
        f"SELECT v.n, c.step_number FROM range(1, 3) v(n) JOIN {CKPT} c ON concat('ftjob-', v.n) = c.fine_tuning_job_id ORDER BY ALL",
        [(1, 1), (1, 2), (2, 1)],
        [C1, C2],
    ),
    "except and qualify": (
        (
            f"SELECT fine_tuning_job_id FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-1', 'ftjob-2') QUALIFY row_number() OVER (PARTITION BY fine_tuning_job_id ORDER BY step_number) = 2 "
            "EXCEPT SELECT id FROM openai.fine_tuning.jobs WHERE id = 'ftjob-2'"
        ),
        [("ftjob-1",)],
        [C1, C2, "GET /v1/fine_tuning/jobs/ftjob-2"],
    ),
    "rows that are in a list": (
        f"SELECT fine_tuning_job_id, step_number FROM {CKPT} WHERE (fine_tuning_job_id, step_number) IN (('ftjob-1', 2), ('ftjob-2', 7))",
        [("ftjob-1", 2)],
        [C1, C2],
    ),
    "a row that equals": (
        f"SELECT id FROM {CKPT} WHERE (step_number, fine_tuning_job_id) = (2, 'ftjob-1')",
        [("ftckpt_ftjob-1_2",)],
        [C1],
    ),
    "rows that are in a subquery": (
        f"SELECT fine_tuning_job_id, step_number FROM {CKPT} WHERE (step_number, fine_tuning_job_id) IN (SELECT trained_tokens, id FROM openai.fine_tuning.jobs WHERE trained_tokens < 3)",
        [("ftjob-1", 1)],
        [JOBS, C1, C2],
    ),
    "the sides of a full join": (
        f"SELECT j.id, c.step_number FROM openai.fine_tuning.jobs j FULL JOIN (VALUES ('ftjob-2'), ('x')) v(id) ON v.id = j.id JOIN {CKPT} c ON c.fine_tuning_job_id = j.id WHERE v.id IS NOT NULL",
        [("ftjob-2", 1)],
        [JOBS, C1, C2, C3],
    ),
    "ids of a subquery": (
        "SELECT filename FROM openai.files.files WHERE id IN (SELECT v FROM (VALUES ('file-1'), ('file-9'), (NULL), ('')) t(v))",
        [("a.jsonl",)],
        ["GET /v1/files/file-1", "GET /v1/files/file-9"],
    ),
    "ids of a subquery of another table": (
        "SELECT id, bytes FROM openai.files.files WHERE file_id IN (SELECT result_files[1] FROM openai.fine_tuning.jobs WHERE trained_tokens < 3) ORDER BY 1",
        [("file-1", 1048576), ("file-2", 5)],
        [JOBS, "GET /v1/files/file-1", "GET /v1/files/file-2"],
    ),
    "ids of a scalar subquery, of rows, beside a filter that a list would take": (
        "SELECT id FROM openai.files.files WHERE id = (SELECT 'file-2') AND purpose IN ('batch', 'fine-tune') UNION ALL SELECT id FROM openai.files.files WHERE (purpose, id) IN (SELECT 'fine-tune', 'file-1')",
        [("file-2",), ("file-1",)],
        ["GET /v1/files/file-1", "GET /v1/files/file-2"],
    ),
    "ids of a subquery and of a list": (
        "SELECT id FROM openai.files.files WHERE id IN (SELECT 'file-1') AND id IN ('file-1', 'file-2')",
        [("file-1",)],
        ["GET /v1/files/file-1", "GET /v1/files/file-2"],
    ),
    "a number is not looked for as a text": (
        "SELECT id FROM openai.vector_stores.vector_stores WHERE id = (SELECT 7)",
        [("07",)],
        ["GET /v1/vector_stores?limit=100"],
    ),
    "ids that an outer join makes optional are those of ON": (
        "SELECT j.id, f.filename FROM openai.fine_tuning.jobs j LEFT JOIN openai.files.files f ON f.id = j.result_files[1] AND f.id IN (SELECT 'file-1') ORDER BY 1",
        [("ftjob-1", "a.jsonl"), ("ftjob-2", None), ("ftjob-3", None)],
        [JOBS, "GET /v1/files/file-1"],
    ),
    "a list of values and subqueries": (
        f"SELECT step_number FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-1', (SELECT max(id) FROM openai.fine_tuning.jobs WHERE trained_tokens < 3)) ORDER BY 1",
        [(1,), (1,), (2,)],
        [JOBS, C1, C2],
    ),
    "a value or a subquery": (
        f"SELECT step_number FROM {CKPT} c WHERE (c.fine_tuning_job_id = 'ftjob-1' OR c.fine_tuning_job_id IN (SELECT id FROM openai.fine_tuning.jobs WHERE trained_tokens = 2)) AND step_number = 1",
        [(1,), (1,)],
        [JOBS, C1, C2],
    ),
    "values that are computed": (
        f"SELECT fine_tuning_job_id FROM {CKPT} WHERE fine_tuning_job_id = concat('ftjob-', 2) UNION ALL SELECT max(fine_tuning_job_id) FROM {CKPT} WHERE fine_tuning_job_id IN (lower('FTJOB-1'), 'ftjob-1')",
        [("ftjob-2",), ("ftjob-1",)],
        [C1, C2],
    ),
    "any of a query, of a list, of values": (
        f"SELECT count(*) FROM {CKPT} WHERE fine_tuning_job_id = ANY (SELECT 'ftjob-1') UNION ALL SELECT count(*) FROM {CKPT} WHERE fine_tuning_job_id = ANY (['ftjob-2']) UNION ALL SELECT count(*) FROM {CKPT} WHERE fine_tuning_job_id IN (VALUES ('ftjob-3'), ('ftjob-1'))",
        [(2,), (1,), (2,)],
        [C1, C2, C3],
    ),
    "a list of values and subqueries, of a column under another name": (
        f"SELECT job FROM (SELECT DISTINCT fine_tuning_job_id AS job FROM {CKPT}) WHERE job IN ('ftjob-2', (SELECT 'ftjob-1')) ORDER BY 1",
        [("ftjob-1",), ("ftjob-2",)],
        [C1, C2],
    ),
    "lists of values and subqueries in each other": (
        f"SELECT count(*) FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-3', (SELECT max(fine_tuning_job_id) FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-1', (SELECT 'ftjob-2')))) OR fine_tuning_job_id = lower('FTJOB-3')",
        [(1,)],
        [C1, C2, C3],
    ),
    "none of a list of values and subqueries": (
        "SELECT id FROM openai.fine_tuning.jobs WHERE id NOT IN ('ftjob-2', (SELECT 'ftjob-1'))",
        [("ftjob-3",)],
        [JOBS],
    ),
    "NULL is asked for by nobody": (
        f"SELECT count(*) FROM (VALUES (NULL), ('ftjob-2'), ('')) v(id) JOIN {CKPT} c ON c.fine_tuning_job_id = v.id",
        [(1,)],
        [C2],
    ),
}


@pytest.mark.parametrize("name", QUERIES)
async def test_values_come_from(ask, fake, name):
    sql, rows, requests = QUERIES[name]
    fake.lists["/v1/vector_stores"] = [{"id": "07", "name": "seven"}]
    assert await ask(sql) == rows
    assert sorted(fake.requests) == sorted(requests)


async def test_pairs_of_parameters_are_asked_for_only_where_they_meet(ask, fake):
    projects = [{"id": "p1", "name": "one"}, {"id": "p2", "name": "two"}]
    fake.lists |= {
        "/v1/organization/projects": projects,
        "/v1/organization/projects/p1/groups": [{"id": "1", "group_id": "g1", "project_id": "p1"}],
        "/v1/organization/projects/p2/groups": [{"id": "2", "group_id": "g2", "project_id": "p2"}],
        "/v1/projects/p1/groups/g1/roles": [{"id": "r1"}],
        "/v1/projects/p2/groups/g2/roles": [{"id": "r2"}],
    }
    rows = await ask(
        "SELECT p.name, r.id FROM openai_admin.projects.projects p JOIN openai_admin.projects.groups g ON g.project_id = p.id "
        "JOIN openai_admin.projects.group_roles r ON r.project_id = p.id AND r.group_id = g.group_id ORDER BY 1"
    )
    assert rows == [("one", "r1"), ("two", "r2")]
    assert len(fake.requests) == 5


@pytest.mark.parametrize(
    "where",
    [
        "(project_id, group_id) IN (('p1', 'g1'), ('p2', 'g2'))",
        "(group_id, project_id) IN (('g2', 'p2'), ('g1', 'p1'), (NULL, 'p1'))",
        "(project_id, group_id) IN (('p1', 'g1'), ('p2', 'g2'), ('p3', 'g1')) AND project_id < 'p3' AND project_id IN ('p1', 'p2')",
        "(project_id = 'p1' AND group_id = 'g1') OR (project_id, group_id) = ('p2', 'g2')",
        "(project_id, group_id) IN (SELECT 'p1', 'g1' UNION ALL SELECT 'p2', 'g2')",
    ],
)  # fmt: skip
async def test_of_rows_of_two_parameters_only_those_are_asked_for(ask, fake, where):
    fake.lists |= {"/v1/projects/p1/groups/g1/roles": [{"id": "r1"}], "/v1/projects/p2/groups/g2/roles": [{"id": "r2"}]}
    assert await ask(f"SELECT id FROM openai_admin.projects.group_roles WHERE {where} ORDER BY 1") == [("r1",), ("r2",)]
    assert len(fake.requests) == 2


async def test_rows_of_parameters_are_seen_through_ctes_and_unions(ask, fake):
    fake.lists |= {"/v1/projects/p1/groups/g1/roles": [{"id": "r1"}], "/v1/projects/p2/groups/g2/roles": [{"id": "r2"}]}
    roles = "SELECT project_id AS p, group_id AS g, id FROM openai_admin.projects.group_roles"
    found = await ask(
        f"WITH r AS ({roles}) SELECT id FROM r WHERE (p, g) = ('p1', 'g1') UNION ALL SELECT id FROM r WHERE (g, p) IN (('g2', 'p2')) ORDER BY 1"
    )
    assert found == [("r1",), ("r2",)]
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM openai_admin.projects.group_roles WHERE (project_id, group_id) IN (('p1', 'g1'), ('p2', 'mistyped'))",
        f"SELECT id FROM {CKPT} WHERE (fine_tuning_job_id, step_number) IN (('ftjob-1', 2), ('mistyped', 7))",
    ],
)
async def test_a_mistyped_id_in_a_row_is_an_error(ask, fake, sql):
    fake.lists["/v1/projects/p1/groups/g1/roles"] = [{"id": "r1"}]
    with pytest.raises(Remote, match="mistyped"):
        await ask(sql)


async def test_many_ids_are_looked_for_in_the_list(ask, fake):
    ids = ", ".join(f"'ftjob-{number}'" for number in range(201))
    assert await ask(f"SELECT count(*) FROM openai.fine_tuning.jobs WHERE id IN ({ids})") == [(3,)]
    assert fake.requests == [JOBS]


async def test_many_ids_of_a_subquery_are_looked_for_in_the_list(ask, fake):
    ids = "SELECT 'ftjob-' || n FROM range(1, {}) t(n) WHERE n <> 3"
    sql = "SELECT id FROM openai.fine_tuning.jobs WHERE id IN ({}) ORDER BY 1"
    assert await ask(sql.format(ids.format(203))) == [("ftjob-1",), ("ftjob-2",)]
    assert fake.requests == [JOBS]
    fake.requests.clear()
    assert await ask(sql.format(ids.format(202))) == [("ftjob-1",), ("ftjob-2",)]
    assert len(fake.requests) == 200
    assert await ask(f"SELECT id FROM openai.fine_tuning.jobs WHERE id IN ({ids.format(900)}) LIMIT 1") == [
        ("ftjob-2",)
    ]


async def test_explain_says_that_it_depends_on_how_many_ids_there_are(session):
    rows = await session.execute("EXPLAIN SELECT 1 FROM openai.files.files WHERE id IN (SELECT 'a')")
    line = next(line for line in await rows.dicts() if line["table"] == "openai.files.files")
    assert (line["request"], line["expected_requests"]) == (
        "GET /files/{file_id}",
        "1 for each value of _given_1; for more than 200, GET /files instead",
    )


async def test_a_file_joins_in(ask, fake, tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text('{"job": "ftjob-1", "note": "best"}\n{"job": "ftjob-2", "note": "worst"}\n')
    for source in (f"'{notes}'", f"read_json('{notes}')"):
        rows = await ask(
            f"SELECT note, max(step_number) FROM {source} n JOIN {CKPT} ON fine_tuning_job_id = job GROUP BY 1 ORDER BY 1"
        )
        assert rows == [("best", 2), ("worst", 1)]
    assert sorted(set(fake.requests)) == [C1, C2]


async def test_a_random_filter_is_not_asked_twice(ask, fake):
    await ask(
        f"SELECT 1 FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id WHERE j.trained_tokens + random() < 0"
    )
    assert sorted(fake.requests) == [C1, C2, C3, JOBS]


async def test_a_value_for_another_column_may_belong_to_nothing(ask, fake):
    rows = await ask(
        f"SELECT j.id, c.step_number FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id "
        "WHERE j.id IN ('ftjob-2', 'ftjob-99')"
    )
    assert rows == [("ftjob-2", 1)]
    with pytest.raises(Remote, match="ftjob-99"):
        await ask(f"SELECT 1 FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-2', 'ftjob-99')")


async def test_a_parent_that_goes_meanwhile_is_an_error(ask, fake):
    del fake.lists["/v1/fine_tuning/jobs/ftjob-3/checkpoints"]
    with pytest.raises(Remote, match="ftjob-3"):
        await ask(f"SELECT 1 FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.id")


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (f"SELECT 1 FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id > j.id", "`c.fine_tuning_job_id > j.id` does not give it values"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON upper(c.fine_tuning_job_id) = j.id", "needs `fine_tuning_job_id`"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j FULL JOIN {CKPT} c ON c.fine_tuning_job_id = j.id", "An outer join shows this table's rows without a partner too"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j FULL JOIN {CKPT} c ON c.fine_tuning_job_id = j.id", "LEFT JOIN that keeps the other side: … LEFT JOIN openai.fine_tuning.job_checkpoints ON …"),
        (f"SELECT 1 FROM {CKPT} c LEFT JOIN openai.fine_tuning.jobs j ON c.fine_tuning_job_id = j.id", "An outer join shows this table's rows without a partner too"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j RIGHT JOIN {CKPT} c ON c.fine_tuning_job_id = j.id", "An outer join shows this table's rows without a partner too"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j LEFT JOIN (VALUES ('x')) v(y) ON v.y = j.id JOIN {CKPT} c ON c.fine_tuning_job_id = coalesce(v.y, 'ftjob-1')", "needs `fine_tuning_job_id`"),
        (f"SELECT 1 FROM {CKPT} a JOIN {CKPT} b ON a.fine_tuning_job_id = b.fine_tuning_job_id", "needs `fine_tuning_job_id`"),
        (f"SELECT 1 FROM {CKPT} c WHERE fine_tuning_job_id = (SELECT max(id) FROM openai.fine_tuning.jobs j WHERE j.id = c.id)", "needs `fine_tuning_job_id`"),
        (f"WITH RECURSIVE r AS (SELECT 'ftjob-1' AS id UNION ALL SELECT c.id FROM r JOIN {CKPT} c ON c.fine_tuning_job_id = r.id) SELECT * FROM r", "fine_tuning_job_id"),
        (f"SELECT * FROM (SELECT fine_tuning_job_id AS j FROM {CKPT} LIMIT 3) WHERE j = 'ftjob-1'", "needs `fine_tuning_job_id`"),
        (f"SELECT 1 FROM openai.fine_tuning.jobs j JOIN {CKPT} c ON c.fine_tuning_job_id = j.frob", "no column `frob`"),
        (f"SELECT 1 FROM (VALUES (1)) v(n) JOIN {CKPT} c ON c.fine_tuning_job_id = v.frob", "frob"),
    ],
)  # fmt: skip
async def test_what_gives_no_values_is_named_before_anything_is_sent(ask, fake, sql, says):
    with pytest.raises((Invalid, Remote, Exception), match=says):
        await ask(sql)
    assert fake.requests == []


async def test_a_value_that_nobody_can_ask_for_twice_gives_no_parameters(ask, fake):
    with pytest.raises(Invalid, match="needs `fine_tuning_job_id`"):
        await ask(f"SELECT 1 FROM {CKPT} WHERE fine_tuning_job_id IN ('ftjob-1', random()::VARCHAR)")
    assert fake.requests == []
