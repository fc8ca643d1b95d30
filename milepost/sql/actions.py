"""EXEC, and the refusals of INSERT, UPDATE and DELETE, which come later: each says what there is instead."""

from __future__ import annotations

from collections.abc import Mapping

from milepost.errors import Invalid, NotFound
from milepost.sql.calls import Call
from milepost.sql.catalog import Method, Table, shipped
from milepost.sql.providers import Provider, table_of
from milepost.sql.statements import Change, Exec
from milepost.sql.words import near


def call_of(statement: Exec, providers: Mapping[str, Provider]) -> Call:
    """The one call of an EXEC. Raises for a method that is not there, is not EXEC's, or lacks a parameter."""
    table = table_of(providers, *statement.table)
    if not any(method.verb == "EXEC" for method in table.methods):
        raise _not_there("EXEC", table, statement.table)
    method = shipped().method(table, statement.method)
    _require_fit(statement, method)
    return Call(statement.table[0], method, tuple(statement.arguments.items()), None)


def refusal(change: Change, providers: Mapping[str, Provider]) -> Invalid:
    for names in change.tables:
        table = table_of(providers, *names)
        if not any(method.verb == change.verb for method in table.methods):
            return _not_there(change.verb, table, names)
    return Invalid(f"{change.verb} comes later; today there are SELECT, SHOW, DESCRIBE and EXEC")


def _require_fit(statement: Exec, method: Method) -> None:
    if method.verb != "EXEC":
        raise Invalid(f"`{method.name}` is reached by {method.verb}, not by EXEC")
    if method.http == "GET" and not method.page:
        raise Invalid(f"`{method.name}` answers with a file, not with rows: that comes later")
    for name in statement.arguments:
        if not method.parameter(name):
            known = (parameter.name for parameter in method.parameters)
            raise NotFound(f"`{method.name}` has no parameter `{name}`.{near(name, known)}", param=name)
    if missing := [name for name in method.required if statement.arguments.get(name, "") == ""]:
        example = ", ".join(f"@{name} = '…'" for name in method.required)
        raise Invalid(
            f"`{method.name}` needs `{missing[0]}`.\nhint: EXEC {'.'.join(statement.table)}.{method.name} {example}",
            param=missing[0],
        )


def _not_there(verb: str, table: Table, names: tuple[str, str, str]) -> Invalid:
    """The refusal that names every way there is."""
    ways = [f"`{method.name}`, reached by {method.verb}" for method in table.methods]
    there = f"its one method is {ways[0]}" if len(ways) == 1 else f"its methods are {'; '.join(ways)}"
    return Invalid(f"`{'.'.join(names)}` has no method for {verb}; {there}")
