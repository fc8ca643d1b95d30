"""A generated query counts only when it gives exactly the rows of the reference, run on the fixed tables."""

from __future__ import annotations

import pytest

from milepost.cli.demo import exam, questions


@pytest.fixture
async def session():
    async with exam.examiner() as session:
        yield session


async def test_every_reference_query_gives_rows(session):
    empty = [pair.question for pair in questions.held_out() if not await exam.rows(session, pair.sql)]
    assert empty == []


async def test_no_two_different_reference_queries_give_the_same_rows(session):
    by_rows = {}
    for sql in {pair.sql for pair in questions.held_out()}:
        by_rows.setdefault(repr(sorted(await exam.rows(session, sql), key=repr)), []).append(sql)
    assert [alike for alike in by_rows.values() if len(alike) > 1] == []
