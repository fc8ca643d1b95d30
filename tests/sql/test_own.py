"""Views, materialized views and tables of one's own."""

from __future__ import annotations

import pytest

from milepost.errors import Invalid, NotFound
from milepost.sql.session import Outcome, Session

CKPT = "openai.fine_tuning.job_checkpoints"


async def test_a_view_gets_its_parameter_from_around_it(session, ask, fake):
    await session.execute(
        f"CREATE VIEW curve AS SELECT fine_tuning_job_id AS job, step_number, json_extract(metrics, '$.train_loss') AS loss FROM {CKPT}"
    )
    assert fake.requests == []
    assert await ask("SELECT step_number, loss FROM curve WHERE job = 'ftjob-1' ORDER BY 1") == [(1, 10.0), (2, 5.0)]
    rows = await ask(
        "SELECT j.id, max(c.step_number) FROM openai.fine_tuning.jobs j JOIN curve c ON c.job = j.id GROUP BY 1 ORDER BY 1"
    )
    assert rows == [("ftjob-1", 2), ("ftjob-2", 1)]
    with pytest.raises(Invalid, match="needs `fine_tuning_job_id`"):
        await ask("SELECT * FROM curve")


async def test_views_of_views_with_names_for_their_columns(session, ask):
    await session.execute("CREATE VIEW a(x, y) AS SELECT id, trained_tokens FROM openai.fine_tuning.jobs")
    await session.execute("CREATE VIEW b AS SELECT x || '!' AS z FROM a WHERE y > 1")
    assert await ask("SELECT z FROM b ORDER BY 1") == [("ftjob-2!",), ("ftjob-3!",)]
    assert await ask("WITH a AS (SELECT 1 AS x) SELECT * FROM a") == [(1,)]
    assert await ask("SHOW VIEWS LIKE 'b'") == [("b", "VIEW", "SELECT x || '!' AS z FROM a WHERE y > 1")]
    await session.execute("CREATE OR REPLACE VIEW a AS SELECT * FROM b")
    with pytest.raises(Invalid, match="made of each other"):
        await ask("SELECT * FROM b")


async def test_a_materialized_view_asks_when_it_is_refreshed(session, ask, fake):
    await session.execute("CREATE MATERIALIZED VIEW m AS SELECT id, created_at FROM openai.fine_tuning.jobs")
    assert await ask("SELECT count(*) FROM m") == [(3,)]
    fake.lists["/v1/fine_tuning/jobs"].pop()
    assert await ask("SELECT count(*) FROM m") == [(3,)]
    assert len(fake.requests) == 1
    await session.execute("REFRESH MATERIALIZED VIEW m")
    assert await ask("SELECT count(*) FROM m") == [(2,)]
    assert await ask("DESCRIBE m") == [("id", "VARCHAR"), ("created_at", "BIGINT")]
    await session.execute("DROP MATERIALIZED VIEW m")
    assert await ask("SHOW VIEWS") == await ask("SHOW TABLES") == []


async def test_tables_are_filled_changed_and_joined(session, ask):
    await session.execute("CREATE TABLE notes (job VARCHAR, note VARCHAR)")
    await session.execute("INSERT INTO notes SELECT id, status FROM openai.fine_tuning.jobs")
    await session.execute("INSERT INTO notes VALUES ('x', 'y')")
    outcome = await session.execute("UPDATE notes SET note = 'best' WHERE job = 'ftjob-2' RETURNING job, note")
    assert isinstance(outcome, Outcome)
    assert outcome.value == {"job": "ftjob-2", "note": "best"}
    await session.execute("DELETE FROM notes WHERE job = 'x'")
    rows = await ask(
        f"SELECT n.note, c.step_number FROM notes n JOIN {CKPT} c ON c.fine_tuning_job_id = n.job WHERE note = 'best'"
    )
    assert rows == [("best", 1)]
    assert await ask("SHOW TABLES") == [("notes",)]
    await session.execute("ALTER TABLE notes ADD COLUMN more INTEGER")
    await session.execute("DROP TABLE notes")
    assert await ask("SHOW TABLES") == []


async def test_they_persist_in_a_file_of_ones_choice(fake, tmp_path):
    path = tmp_path / "mine.duckdb"
    async with Session({"openai": fake.provider()}, database=path) as session:
        await session.execute("CREATE VIEW v AS SELECT id FROM openai.fine_tuning.jobs WHERE status = 'succeeded'")
        await session.execute("CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM v")
        await session.execute("CREATE TABLE t AS SELECT 1 AS a")
    async with Session({"openai": fake.provider()}, database=path) as session:
        rows = await session.execute("SELECT (SELECT n FROM m), (SELECT a FROM t), (SELECT count(*) FROM v)")
        assert await rows.fetchall() == [(3, 1, 3)]
    with pytest.raises(Invalid, match="Cannot open"):
        async with Session({}, database=tmp_path) as session:
            await session.execute("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "kind", "says"),
    [
        ("CREATE VIEW v AS SELECT * FROM openai.fine_tuning.job", NotFound, "Did you mean `jobs`"),
        ("CREATE TEMP TABLE t AS SELECT 1", Invalid, "TEMP lives no longer"),
        ("CREATE TABLE a.b AS SELECT 1", Invalid, "a name without dots"),
        ("CREATE INDEX i ON t (a)", Invalid, "VIEW, a MATERIALIZED VIEW or a TABLE"),
        ("REFRESH MATERIALIZED VIEW nope", NotFound, "No materialized view `nope`"),
        ("DROP TABLE nope", Invalid, "nope"),
        ("DELETE FROM t WHERE id IN (SELECT id FROM openai.files.files)", Invalid, "CREATE TABLE … AS SELECT"),
    ],
)
async def test_what_cannot_be_made_is_refused(session, fake, sql, kind, says):
    with pytest.raises(kind, match=says):
        await session.execute(sql)
    assert fake.requests == []
