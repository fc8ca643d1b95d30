"""Nodes of a tree: the same as sqlglot gives, in the same order."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from milepost.sql.tree import every, first

SQL = """
WITH a AS (SELECT x, (SELECT max(y) FROM t) AS m FROM u) SELECT a.x, count(*) FILTER (a.m > 1), [1, {'k': a.m}]
FROM a LEFT JOIN (b JOIN c USING (x)) ON a.x = b.x WHERE x IN (SELECT z FROM d WHERE d.q = a.x) ORDER BY 1 LIMIT 3"""


@pytest.mark.parametrize("kinds", [(exp.Expr,), (exp.Column,), (exp.Table, exp.Select), (exp.Literal, exp.Query)])
def test_every_node_in_sqlglots_order(kinds):
    tree = sqlglot.parse_one(SQL, dialect="duckdb")
    assert list(map(id, every(tree, *kinds))) == list(map(id, tree.find_all(*kinds)))
    assert first(tree, *kinds) is tree.find(*kinds)


def test_what_is_not_there():
    tree = sqlglot.parse_one("SELECT 1", dialect="duckdb")
    assert (every(tree, exp.Column), first(tree, exp.Column)) == ([], None)
