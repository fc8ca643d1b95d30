"""Which conditions a row of one source must meet to be seen, and which values they hold a column to.

Filtering a source by such a condition before the query runs changes nothing: a row that fails it is seen nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import TypeAlias

from sqlglot import exp

from milepost.sql.calls import Value
from milepost.sql.tree import every

#: The only values a column can have; None for "any".
Held: TypeAlias = frozenset[Value] | None
Row: TypeAlias = tuple[Value, ...]

#: Functions that say another thing each time they are asked: what they filter cannot be asked twice.
# fmt: off
VOLATILE = frozenset({
    "random", "rand", "setseed", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "nextval", "currval",
    "milepost_chat", "milepost_grade",
})
# fmt: on

#: Joins whose pairs depend on rows that a filter leaves out.
ORDERED = ("ASOF", "POSITIONAL")


#: What a join says of its pairs: ON, or what USING means.
OnOf: TypeAlias = Callable[[exp.Join], exp.Expr | None]


def conditions(select: exp.Expr, node: exp.Expr, on_of: OnOf) -> Iterator[exp.Expr]:
    """Conditions that a row of `node`, in this SELECT's FROM, must meet: WHERE, and each ON that it cannot do without.

    Of an outer join, ON binds the side that NULL may stand for; the other side's rows are seen without it.
    """
    joins = _joins(select)
    if not isinstance(select, exp.Select) or any(join.method in ORDERED for join in joins):
        return
    if where := select.args.get("where"):
        yield where.this
    if from_ := select.args.get("from_"):
        yield from _of_joins([from_.this, *(join.this for join in joins)], joins, node, on_of)


def can_narrow(select: exp.Expr) -> bool:
    """Whether any of the conditions may be applied early, even one that NULL meets.

    With RIGHT and FULL joins it may not: without its partner a row would be seen with NULL in that partner's place.
    """
    inside = [*_joins(select), *(join for nested in _nested(select) for join in nested.this.args.get("joins") or ())]
    return isinstance(select, exp.Select) and not any(
        join.side in ("RIGHT", "FULL") or join.method in ORDERED for join in inside
    )


def is_optional(select: exp.Expr, node: exp.Expr) -> bool:
    """Whether a join may put NULL in the place of the node's rows."""
    joins = _joins(select)
    return any(
        (join.side == "LEFT" and _holds(join.this, node)) or join.side in ("RIGHT", "FULL") or _nested(select)
        for join in joins
    )


def is_kept(select: exp.Expr, node: exp.Expr) -> bool:
    """Whether an outer join shows rows of the node that meet no row of the other side."""
    joins = _joins(select)
    at = next((n for n, join in enumerate(joins) if join.this is node), -1)
    return any(
        (join.side == "FULL" and n >= at) or (join.side == "RIGHT" and n == at) or (join.side == "LEFT" and n > at)
        for n, join in enumerate(joins)
    )


def parts(condition: exp.Expr, joined_by: type[exp.And | exp.Or] = exp.And) -> Iterator[exp.Expr]:
    """What AND joins, or OR."""
    inner = condition.unnest()
    if isinstance(inner, joined_by):
        yield from parts(inner.left, joined_by)
        yield from parts(inner.right, joined_by)
    else:
        yield inner


def held_by(condition: exp.Expr, is_column: Callable[[exp.Expr], bool]) -> Held:
    """The only values the column can have where the condition holds; None if it can have any."""
    inner = condition.unnest()
    held: Held = None
    match inner:
        case exp.And():
            sides = [held_by(side, is_column) for side in (inner.left, inner.right)]
            known = [values for values in sides if values is not None]
            held = frozenset.intersection(*known) if known else None
        case exp.Or():
            sides = [held_by(side, is_column) for side in (inner.left, inner.right)]
            held = frozenset().union(*(values for values in sides if values is not None)) if None not in sides else None
        case exp.EQ() if is_column(inner.left):
            held = literals([inner.right])
        case exp.EQ() if is_column(inner.right):
            held = literals([inner.left])
        case exp.In() if is_column(inner.this) and inner.expressions:
            held = literals(inner.expressions)
        case exp.EQ() | exp.In() if pairs := rows_of(inner):
            columns, rows = pairs
            found = [literals(row[at] for row in rows) for at, column in enumerate(columns) if is_column(column)]
            held = found[0] if found else None
    return held


def held_together(condition: exp.Expr, columns: Sequence[Callable[[exp.Expr], bool]]) -> frozenset[Row] | None:
    """The only rows of values that these columns can have where the condition holds; None if they can have any."""
    inner = condition.unnest()
    if isinstance(inner, exp.Or | exp.And):
        sides = [held_together(side, columns) for side in (inner.left, inner.right)]
        known = [rows for rows in sides if rows is not None]
        if isinstance(inner, exp.Or):
            return known[0] | known[1] if len(known) == len(sides) else None
        if known:
            return frozenset.intersection(*known)
    if pairs := rows_of(inner):
        named, written = pairs
        at = [next((n for n, node in enumerate(named) if is_column(node)), None) for is_column in columns]
        if None not in at:
            rows = [[literals([row[n]]) for n in at if n is not None] for row in written]
            return None if any(None in row for row in rows) else frozenset().union(*map(_each_with_each, rows))
    each = [held_by(inner, is_column) for is_column in columns]
    return None if None in each else _each_with_each(each)


def _each_with_each(held: Sequence[Held]) -> frozenset[Row]:
    return frozenset(product(*(values or () for values in held)))


def rows_of(condition: exp.Expr) -> tuple[list[exp.Expr], list[list[exp.Expr]]] | None:
    """The columns of `(a, b) = (1, 2)` or `(a, b) IN ((1, 2), …)`, and the rows they are held to."""
    inner = condition.unnest()
    sides = [inner.this, *(inner.expressions or [inner.args.get("expression")])]
    if isinstance(inner, exp.EQ) and not isinstance(sides[0], exp.Tuple):
        return None
    if not all(isinstance(side, exp.Tuple) and len(side.expressions) == len(sides[0].expressions) for side in sides):
        return None
    columns, *rows = [list(side.expressions) for side in sides]
    return columns, rows


def literals(nodes: Iterable[exp.Expr]) -> Held:
    """The values of literals, without NULL, which equals nothing; None if any is not a literal."""
    values: set[Value] = set()
    for node in nodes:
        if isinstance(node, exp.Null):
            continue
        if isinstance(node, exp.Boolean):
            values.add(bool(node.this))
        elif isinstance(node, exp.Literal):
            values.add(node.this if node.is_string else int(node.this) if node.this.isdigit() else float(node.this))
        else:
            return None
    return frozenset(values)


def is_volatile(node: exp.Expr) -> bool:
    return any(call.name.lower() in VOLATILE for call in every(node, exp.Anonymous, exp.Func) if call.name)


def _of_joins(relations: list[exp.Expr], joins: list[exp.Join], node: exp.Expr, on_of: OnOf) -> Iterator[exp.Expr]:
    at = next((n for n, relation in enumerate(relations) if _holds(relation, node)), None)
    if at is None:
        return
    nested = relations[at]
    if nested is not node and isinstance(nested, exp.Subquery) and isinstance(nested.this, exp.Table):
        inner = nested.this.args.get("joins") or []
        yield from _of_joins([nested.this, *(join.this for join in inner)], inner, node, on_of)
    for number, join in enumerate(joins, start=1):
        on, is_own = on_of(join), number == at
        binds = {
            "LEFT": is_own or (join.kind == "SEMI"),
            "RIGHT": number > at,
            "FULL": False,
            "": is_own or join.kind != "ANTI",
        }
        if on and binds[join.side]:
            yield on


def _holds(relation: exp.Expr, node: exp.Expr) -> bool:
    """Whether the relation is the node, or a join in parentheses with the node in it."""
    if relation is node or (isinstance(relation, exp.Subquery | exp.Lateral) and relation.unnest() is node):
        return True
    if not (isinstance(relation, exp.Subquery) and isinstance(relation.this, exp.Table)):
        return False
    inner = [relation.this, *(join.this for join in relation.this.args.get("joins") or ())]
    return any(_holds(one, node) for one in inner)


def _nested(select: exp.Expr) -> list[exp.Subquery]:
    """Joins in parentheses."""
    from_ = select.args.get("from_")
    relations = [*([from_.this] if from_ else []), *(join.this for join in _joins(select))]
    return [one for one in relations if isinstance(one, exp.Subquery) and isinstance(one.this, exp.Table)]


def _joins(select: exp.Expr) -> list[exp.Join]:
    return list(select.args.get("joins") or ()) if isinstance(select, exp.Select) else []
