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


BEST = next(pair for pair in questions.held_out() if pair.kind == "best_checkpoint")
FAILED = next(pair for pair in questions.held_out() if pair.kind == "failed")

RIGHT = {
    "the reference": (BEST, BEST.sql),
    "the same rows by another way": (
        BEST,
        """SELECT arg_min(step_number, metrics.full_valid_loss), arg_min(fine_tuned_model_checkpoint, metrics.full_valid_loss)
        FROM openai.fine_tuning.job_checkpoints WHERE fine_tuning_job_id = 'ftjob-m7t2'""",
    ),
    "another order where none was asked for": (FAILED, f"{FAILED.sql} ORDER BY id DESC"),
}
WRONG = {
    "the worst checkpoint": (BEST, BEST.sql.replace(" LIMIT", " DESC LIMIT")),
    "the lowest loss of one batch only": (BEST, BEST.sql.replace("full_valid_loss", "valid_loss")),
    "another job": (BEST, BEST.sql.replace("m7t2", "b5n1")),
    "a column too many": (FAILED, FAILED.sql.replace("SELECT id", "SELECT id, model")),
    "a row too few": (FAILED, f"{FAILED.sql} LIMIT 2"),
    "no such column": (FAILED, FAILED.sql.replace("error.message", "reason")),
    "prose": (FAILED, "To find the failed jobs, look at the table of jobs."),
    "nothing": (FAILED, ""),
    "two statements": (FAILED, f"{FAILED.sql}; {FAILED.sql}"),
    "a statement that changes something": (FAILED, "EXEC openai.fine_tuning.jobs.cancel @fine_tuning_job_id = 'x'"),
    "a look at this machine's files": (FAILED, "SELECT * FROM read_text('/etc/hostname')"),
}


@pytest.mark.parametrize("case", RIGHT)
async def test_the_expected_rows_are_right(session, case):
    assert await exam.is_right(session, *RIGHT[case])


@pytest.mark.parametrize("case", WRONG)
async def test_anything_else_is_wrong(session, case):
    assert not await exam.is_right(session, *WRONG[case])


async def test_an_order_that_was_asked_for_counts(session):
    newest = next(pair for pair in questions.held_out() if pair.kind == "newest")
    turned = f"SELECT * FROM ({newest.sql}) ORDER BY id"
    assert not await exam.is_right(session, newest, turned)
