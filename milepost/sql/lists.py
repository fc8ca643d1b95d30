"""Values that a condition computes become one query, whose rows can be asked for first.

`p IN ('a', (SELECT …))`, `p = 'a' OR p IN (SELECT …)`, `p = ANY (…)` and `p = concat('a', 1)` mean what
`p IN (SELECT …)` does, the one form that the planner knows. Literals stay as they are: they are known without asking.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sqlglot import exp

from milepost.sql.held import is_volatile, parts
from milepost.sql.tree import every, first

#: What makes an expression more than a value that stands in the statement.
NOT_CONSTANT = (
    exp.AggFunc, exp.Column, exp.Lambda, exp.Parameter, exp.Placeholder, exp.Query, exp.Rand, exp.Star, exp.Tuple,
    exp.Uuid, exp.Window,
)  # fmt: skip
LITERALS = (exp.Boolean, exp.Literal, exp.Null)


def rewrite(tree: exp.Query, names: AbstractSet[str]) -> bool:
    """Change the conditions on columns of these names, and of names that the query gives them, wherever they stand.
    Whether there was one.
    """
    found = False
    known: AbstractSet[str] = frozenset()
    for condition in reversed(every(tree, exp.Or, exp.In, exp.EQ)):  # inner ones first: outer ones copy them
        if isinstance(condition, exp.Or) and isinstance(_around(condition), exp.Or):
            continue
        if instead := _instead([*parts(condition, exp.Or)]):
            known = known or names | _new_names(tree, names)
            if instead.this.name.lower() in known:
                condition.replace(instead)
                found = True
    return found


def _instead(arms: list[exp.Expr]) -> exp.In | None:
    """One IN that says what the arms do, if all are of one column; None also where it is that, or known, already."""
    pairs = [pair for arm in arms if (pair := _wanted(arm))]
    if len(pairs) < len(arms) or any(column != pairs[0][0] for column, _ in pairs):
        return None
    column, values = pairs[0][0], [value for _, each in pairs for value in each]
    if all(isinstance(value, LITERALS) for value in values):
        has_any = any(isinstance(arm.args.get("expression"), exp.Any) for arm in arms)
        return exp.In(this=column.copy(), expressions=[value.copy() for value in values]) if has_any else None
    if len(values) == 1 and (arms[0].args.get("query") or isinstance(arms[0].args.get("expression"), exp.Subquery)):
        return None
    rows, *more = map(_rows, values)
    for one in more:
        rows = exp.union(rows, one, distinct=False, copy=False)
    return exp.In(this=column.copy(), query=exp.Subquery(this=rows))


def _new_names(tree: exp.Query, names: AbstractSet[str]) -> set[str]:
    aliases = {
        (node.this.name.lower(), node.alias.lower())
        for node in every(tree, exp.Alias)
        if isinstance(node.this, exp.Column)
    }
    new = {column.name.lower() for node in every(tree, exp.TableAlias) for column in node.columns}
    while more := {alias for name, alias in aliases if name in names | new} - new:
        new |= more
    return new


def _around(condition: exp.Expr) -> exp.Expr | None:
    above = condition.parent
    while isinstance(above, exp.Paren):
        above = above.parent
    return above


def _wanted(arm: exp.Expr) -> tuple[exp.Column, list[exp.Expr]] | None:
    """The column, and what it equals one of: values, and queries for their rows. None if it can be anything else."""
    column, values = arm.this, list[exp.Expr]()
    if isinstance(arm, exp.EQ):
        column, other = (arm.left, arm.right) if isinstance(arm.left, exp.Column) else (arm.right, arm.left)
        values = _any_of(other)
    elif isinstance(arm, exp.In):
        query = arm.args.get("query")
        values = [query.unnest()] if query else [_values(item) for item in arm.expressions]
    if not isinstance(column, exp.Column) or not values or not all(map(_is_known, values)):
        return None
    return column, values


def _any_of(node: exp.Expr) -> list[exp.Expr]:
    """What `=` compares with: of ANY, each of its rows or items."""
    if not isinstance(node, exp.Any):
        return [node]
    inner = node.this.unnest()
    if isinstance(inner, exp.Array):
        return list(inner.expressions)
    return [_values(inner)] if isinstance(inner, exp.Query | exp.Values) else []


def _values(node: exp.Expr) -> exp.Expr:
    """VALUES as a query."""
    return exp.select("*").from_(node.copy()) if isinstance(node, exp.Values) else node


def _is_known(value: exp.Expr) -> bool:
    """Whether it is a query, or a value that no row changes."""
    return isinstance(value, exp.Query) or not (first(value, *NOT_CONSTANT) or is_volatile(value))


def _rows(value: exp.Expr) -> exp.Query:
    """A query that has the value as its row, or the rows of the query that it is."""
    if isinstance(value, exp.Query) and not isinstance(value, exp.Subquery):
        return exp.select("*").from_(exp.Subquery(this=value.copy()))
    return exp.select(value.copy())
