"""EXPLAIN: the calls of a statement, what of it the API does, and what is left to DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from milepost.sql import parted
from milepost.sql.calls import BY_ID, Fixed, Plan, Read, Step, Value, fixed_of
from milepost.sql.fetch import PAGE_SIZE, Spent
from milepost.sql.writes import Target

COLUMNS = ("step", "table", "request", "parameters", "pushed_down", "expected_requests", "detail")
REAL = ("requests", "rows", "seconds")
#: How many values are shown before it is said how many there are.
SHOWN = 3

Line = dict[str, Any]


def lines(plan: Plan, spent: Mapping[str, Spent]) -> list[Line]:
    """A line for each table and each subquery that gives parameters, in the order in which they can begin."""
    return [
        _line(number, step, spent) for number, step in enumerate(plan.steps, start=1) if not isinstance(step, Fixed)
    ]


def write_line(number: int, target: Target, requests: Sequence[tuple[str, str, str]] | None) -> list[Line]:
    """What a change sends: the exact requests where they are known without asking, else what they are made of."""
    shown = {"step": number, "table": target.shown}
    if requests is None:
        names = ", ".join(target.names or ("the columns of the rows",))
        request = f"{target.method.http} {target.method.url}"
        more = ", 1 more for each part of its file and 1 to complete it" if target.method.path == parted.PATH else ""
        return [shown | {"request": request, "parameters": names, "expected_requests": f"1 for each row{more}"}]
    return [
        shown | {"step": number + n, "request": f"{method} {url}", "parameters": body, "expected_requests": "1"}
        for n, (method, url, body) in enumerate(requests)
    ]


def table(
    found: Sequence[Line], duckdb: str, *, is_real: bool, seconds: float | None = None
) -> tuple[tuple[str, ...], list[list[Any]]]:
    """The lines as rows, the last of them DuckDB's."""
    columns = (*COLUMNS, *REAL) if is_real else COLUMNS
    last = {"step": len(found) + 1, "table": "DuckDB", "detail": duckdb, "seconds": seconds}
    return columns, [[line.get(column) for column in columns] for line in (*found, last)]


def _line(number: int, step: Step, spent: Mapping[str, Spent]) -> Line:
    if not isinstance(step, Read):
        return {"step": number, "table": step.relation, "detail": f"computed once: {getattr(step, 'sql', '')}"}
    given = [f"{name} {_shown(step.fixed[name])}" for name in sorted(step.fixed)]
    given += [f"{', '.join(values.names)} ← {values.shown}" for values in step.values]
    pushed = [name for name in sorted(step.sent) if name in step.fixed]
    pushed += [f"LIMIT {step.limit}"] if step.limit is not None else []
    line = {
        "step": number,
        "table": step.shown,
        "request": f"{step.method.http} {step.method.url}",
        "parameters": "; ".join(given),
        "pushed_down": ", ".join(pushed),
        "expected_requests": _expected(step),
        "detail": f"{step.method.path}, as {step.relation}",
    }
    if real := spent.get(step.relation):
        line |= {"requests": real.requests, "rows": real.rows, "seconds": round(real.seconds, 3)}
    return line


def _shown(values: frozenset[Value]) -> str:
    listed = sorted(map(repr, values))
    if len(listed) == 1:
        return f"= {listed[0]}"
    more = f", … {len(listed)} values" if len(listed) > SHOWN else ""
    return f"IN ({', '.join(listed[:SHOWN])}{more})"


def _expected(read: Read) -> str:
    calls = sum(1 for _ in fixed_of(read))
    each = " for each value of " + " and ".join(values.shown for values in read.values) if read.values else ""
    if read.otherwise:
        each += f"; for more than {BY_ID}, GET {read.otherwise.method.url} instead"
    is_one = read.method.page == "object" or (read.limit is not None and read.limit <= PAGE_SIZE)
    if is_one:
        return f"{calls}{each}"
    return f"{calls}{each}, and 1 more for each {PAGE_SIZE} rows"
