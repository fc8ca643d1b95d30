"""When LIMIT may go to the API: where nothing but pushed values filters, and nothing orders."""

from __future__ import annotations

from sqlglot import exp

from milepost.sql.held import literals
from milepost.sql.scopes import Occurrence
from milepost.sql.tree import first

#: Parts of a SELECT beside which a limit on rows is not a limit on the table.
NOT_BESIDE_LIMIT = (
    "joins",
    "laterals",
    "group",
    "having",
    "qualify",
    "distinct",
    "order",
    "windows",
    "sample",
    "pivots",
)
NOT_ROW_BY_ROW = (exp.AggFunc, exp.Window, exp.UDTF, exp.Explode, exp.Anonymous, exp.Query)


def limit_of(occurrence: Occurrence, pushed: set[str]) -> int | None:
    """How many rows are enough, where the API's own first rows are as good as any."""
    select = occurrence.scope.expression
    if not isinstance(select, exp.Select) or any(select.args.get(part) for part in NOT_BESIDE_LIMIT):
        return None
    if len(occurrence.scope.selected_sources) != 1 or any(first(node, *NOT_ROW_BY_ROW) for node in select.expressions):
        return None
    where, limit, offset = (select.args.get(part) for part in ("where", "limit", "offset"))
    if limit and limit.args.get("limit_options"):  # LIMIT 10% is of all rows
        return None
    if where and not _is_pushed(where.this, pushed):
        return None
    counts = [part.expression for part in (limit, offset) if part]
    if not limit or not all(isinstance(count, exp.Literal) and count.this.isdigit() for count in counts):
        return None
    return sum(int(count.this) for count in counts)


def _is_pushed(condition: exp.Expr, pushed: set[str]) -> bool:
    match condition:
        case exp.And():
            return _is_pushed(condition.left, pushed) and _is_pushed(condition.right, pushed)
        case exp.Paren():
            return _is_pushed(condition.this, pushed)
        case exp.EQ():
            sides = (condition.left, condition.right)
            return (
                any(isinstance(s, exp.Column) and s.name.lower() in pushed for s in sides)
                and literals(s for s in sides if not isinstance(s, exp.Column)) is not None
            )
        case exp.In():
            return isinstance(condition.this, exp.Column) and condition.this.name.lower() in pushed
        case _:
            return False
