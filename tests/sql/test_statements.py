from __future__ import annotations

import pytest

from milepost.errors import Invalid
from milepost.sql.execute import is_duckdbs_own
from milepost.sql.parse import parse
from milepost.sql.statements import Describe, Exec, Show


def test_exec_takes_texts_numbers_and_truths():
    statement = parse("EXEC a.b.c.d @one = 'it''s', @two = 2, @three = {'a': [1, 2]}, @@json = '{}' RETURNING id;", {})
    assert isinstance(statement, Exec)
    assert (statement.table, statement.method) == (("a", "b", "c"), "d")
    said = statement.arguments.sql("duckdb")
    assert said == "SELECT 'it''s' AS \"one\", 2 AS \"two\", {'a': [1, 2]} AS \"three\", '{}' AS \"@@json\""
    assert statement.returning is not None
    assert statement.returning.sql("duckdb") == "SELECT id"


def test_a_placeholder_in_exec_is_filled_as_a_value():
    statement = parse("EXEC a.b.c.d @id = '{{ id }}'", {"id": "x', @other = 'y"})
    assert isinstance(statement, Exec)
    assert statement.arguments.sql("duckdb") == "SELECT 'x'', @other = ''y' AS \"id\""


def test_words_are_read_after_comments_and_in_any_case():
    assert parse("-- which?\n/* all */ show providers like 'o%'", {}) == Show("PROVIDERS", (), "o%")


def test_describe_extended():
    assert parse("describe extended a.b.c", {}) == Describe(("a", "b", "c"), extended=True)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SHOW METHODS IN a.b", "SHOW METHODS IN provider.service.resource"),
        ("SHOW", r"SHOW \[EXTENDED\] PROVIDERS"),
        ("DESCRIBE a.b", "DESCRIBE"),
        ("EXEC a.b.c", "not the name of a method"),
        ("EXEC a.b.c.d @x", "Expected ="),
        ("EXEC a.b.c.d @x = y", "Expected a value before `y`"),
        ("SHOW PROVIDERS please", "`please` was not expected"),
    ],
)
def test_a_word_out_of_place_is_told_with_the_usage(sql, says):
    with pytest.raises(Invalid, match=says):
        parse(sql, {})


@pytest.mark.parametrize("sql", ["SELECT 1", "  with a as (select 1) select * from a", "FROM range(3)"])
def test_what_can_name_nothing_of_ours_is_duckdbs_own(sql):
    assert is_duckdbs_own(sql)


@pytest.mark.parametrize(
    "sql",
    ["SELECT * FROM a . b.c", "SELECT '{{ x }}'", "SELECT $x", "SELECT date('now')", "COPY x TO 'y'", "SHOW PROVIDERS"],
)
def test_what_may_be_ours_is_parsed(sql):
    assert not is_duckdbs_own(sql)
