"""INSERT, UPDATE, DELETE and EXEC: which method is called, and with what, once for each row of a query.

UPDATE and DELETE select their rows first: what is changed is what SELECT with the same WHERE shows. A file is named by
`file('path')`, or is the text that `to_jsonl(SELECT …)` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from sqlglot import exp

from milepost.errors import Denied, Invalid, NotFound
from milepost.sql import dialect, parted
from milepost.sql.calls import Call
from milepost.sql.catalog import Method, Parameter, Table, Type, shipped
from milepost.sql.held import held_by, parts
from milepost.sql.providers import Provider, table_of
from milepost.sql.statements import Change, Exec, Insert, Triple, Write
from milepost.sql.words import near

#: What the rows of a change are called beside the table's own columns.
ARGUMENT, ROW = "argument ", "row"
#: The name under which a file of `to_jsonl` is sent, if the statement gives none in `filename`.
FILENAME = "rows.jsonl"
#: What an EXEC without arguments selects.
NO_ARGUMENTS = "SELECT '{}' AS \"@@json\""


@dataclass(frozen=True, slots=True)
class Target:
    """The table and method of a change, and the query whose rows are the calls' arguments.

    `names` are the arguments in the order of the query's columns; None if the query itself names them.
    """

    verb: str
    provider: str
    table: Table
    method: Method
    query: exp.Query
    names: tuple[str, ...] | None
    shown: str

    @property
    def keeps_rows(self) -> bool:
        return self.verb in ("UPDATE", "DELETE")


def target(statement: Write, providers: Mapping[str, Provider]) -> Target:
    """What a change calls. Raises, before anything is sent, for what the table or its method cannot do."""
    table = table_of(providers, *statement.table)
    match statement:
        case Insert():
            return _insert(statement, table)
        case Exec():
            return _exec(statement, table)
        case Change():
            return _change(statement, table)


def calls(
    target: Target, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, files: bool
) -> list[tuple[Call, dict[str, Any]]]:
    """One call for each row, and the row itself; two that are equal are one. `files` allows reading them."""
    names = target.names or tuple(_name(column) for column in columns)
    if target.names is None:
        _require_fit(target.table, target.method, names, target.verb)
    if target.verb == "INSERT":
        _require_as_many(names, columns)
    made: list[tuple[Call, dict[str, Any]]] = []
    for row in rows:
        given = dict(zip(names, row[: len(names)], strict=True))
        if target.verb != "UPDATE":  # there NULL is a value; elsewhere it is no value
            given = {name: value for name, value in given.items() if value is not None}
        arguments = _arguments(target.method, given, files=files)
        seen = dict(zip(columns[len(names) :], row[len(names) :], strict=True)) if target.keeps_rows else {}
        call = Call(target.provider, target.method, tuple(sorted(arguments.items())))
        if target.verb == "INSERT" or all(call != other for other, _ in made):
            made.append((call, seen))
    return made


# --- the four ---------------------------------------------------------------------------------------------------------


def _insert(statement: Insert, table: Table) -> Target:
    methods = [method for method in table.methods if method.verb == "INSERT"]
    if not methods:
        raise not_there("INSERT", table, statement.table)
    rows = statement.rows
    is_star = any(item.is_star for item in rows.selects)
    named = statement.columns or (() if is_star else tuple(rows.named_selects))
    names = tuple(_name(name) for name in named)
    takes = [m for m in methods if all(m.parameter(name) or name in ("filename", "@@json") for name in names)]
    is_known = bool(names) and "@@json" not in names
    method = min(takes or methods, key=lambda one: len(set(one.required) - set(names)) if is_known else 0)
    if is_known:
        _require_fit(table, method, names, "INSERT")
    if names and not is_star:
        _require_as_many(names, rows.selects)
    return _target("INSERT", statement.table, (table, method), rows, names or None)


def _require_as_many(names: Sequence[str], values: Sequence[object]) -> None:
    if len(names) != len(values):
        raise Invalid(f"INSERT names {len(names)} columns, and its rows have {len(values)}")


def _exec(statement: Exec, table: Table) -> Target:
    if not any(method.verb == "EXEC" for method in table.methods):
        raise not_there("EXEC", table, statement.table)
    method = shipped().method(table, statement.method)
    if method.verb != "EXEC":
        raise Invalid(f"`{method.name}` is reached by {method.verb}, not by EXEC")
    names = tuple(statement.arguments.named_selects)
    if not {"@@json"} & {*names} or statement.arguments.sql() == NO_ARGUMENTS:
        _require_fit(table, method, tuple(_name(name) for name in names if name != "@@json"), "EXEC")
    return _target("EXEC", statement.table, (table, method), statement.arguments, tuple(map(_name, names)))


def _change(statement: Change, table: Table) -> Target:
    method = next((method for method in table.methods if method.verb == statement.verb), None)
    if method is None:
        raise not_there(statement.verb, table, statement.table)
    keys = [p.name for p in method.parameters if p.place == "path"]
    sets = tuple(_name(name) for name, _ in statement.sets)
    _require_fit(table, method, (*keys, *sets), statement.verb)
    if not table.selects:
        return _without_select(statement, table, method, keys)
    alias = statement.rows.args["from_"].this.alias_or_name
    query = statement.rows.copy()
    own = _own_id(table, method)
    for column in query.find_all(exp.Column):
        is_own = own and column.name.lower() == own and column.table.lower() in ("", alias.lower())
        if is_own and not _is_shown(table, column.name.lower()):
            column.set("this", exp.to_identifier("id"))
    for name in keys:
        source = "id" if name == own and not _is_shown(table, name) else name
        query = query.select(exp.alias_(exp.column(source, alias, quoted=True), f"{ARGUMENT}{name}", quoted=True))
    for name, value in statement.sets:
        query = query.select(exp.alias_(value.copy(), f"{ARGUMENT}{_name(name)}", quoted=True))
    query = query.select(exp.Column(this=exp.Star(), table=exp.to_identifier(alias, quoted=True)))
    return _target(statement.verb, statement.table, (table, method), query, (*keys, *sets))


def _without_select(statement: Change, table: Table, method: Method, keys: Sequence[str]) -> Target:
    """A table that nothing reads: WHERE must say which by values, and there is nothing else it could say."""
    where = statement.rows.args.get("where")
    conditions = list(parts(where.this)) if where else []
    items: list[exp.Expr] = []
    for name in keys:
        held = next((h for c in conditions if (h := held_by(c, partial(_is, name)))), None)
        if held is None or len(held) != 1:
            raise Invalid(f"`{'.'.join(statement.table)}` cannot be read: give `{name}` with = and a value", param=name)
        items.append(exp.alias_(exp.convert(min(held, key=str)), name))
    if len(conditions) != len(keys):
        raise Invalid(f"`{'.'.join(statement.table)}` cannot be read: WHERE can say {' and '.join(keys)} only")
    items += [exp.alias_(value.copy(), _name(name)) for name, value in statement.sets]
    names = (*keys, *(_name(name) for name, _ in statement.sets))
    return _target(statement.verb, statement.table, (table, method), exp.select(*items), names)


def _is(name: str, node: exp.Expr) -> bool:
    return isinstance(node, exp.Column) and node.name.lower() == name


def _own_id(table: Table, method: Method) -> str | None:
    """The parameter that is the row's own id: the last segment of the path."""
    last = method.url.partition("?")[0].rpartition("/")[2]
    return last[1:-1] if last.startswith("{") and table.column("id") else None


def _is_shown(table: Table, name: str) -> bool:
    """Whether a SELECT knows the name: as a column, or as a parameter it takes."""
    return bool(table.column(name)) or any(method.parameter(name) for method in table.selects)


def _target(
    verb: str, names: Triple, method: tuple[Table, Method], query: exp.Query, arguments: tuple[str, ...] | None
) -> Target:
    shown = ".".join(names)
    for call in list(query.find_all(exp.Anonymous)):
        if call.name.lower() == dialect.FILE:
            path = exp.PropertyEQ(this=exp.to_identifier(dialect.FILE), expression=call.expressions[0])
            call.replace(exp.Struct(expressions=[path]))
    return Target(verb, names[0], *method, query, arguments, shown)


def not_there(verb: str, table: Table, names: Triple) -> Invalid:
    """The refusal that names every way there is."""
    ways = [f"`{method.name}`, reached by {method.verb}" for method in table.methods]
    there = f"its one method is {ways[0]}" if len(ways) == 1 else f"its methods are {'; '.join(ways)}"
    return Invalid(f"`{'.'.join(names)}` has no method for {verb}; {there}")


# --- arguments --------------------------------------------------------------------------------------------------------


def _name(column: str) -> str:
    """The parameter a column is for: older pages write `data__model` for `model`."""
    return column.lower().removeprefix("data__")


def _require_fit(table: Table, method: Method, names: Iterable[str], verb: str) -> None:
    given = set(names)
    for name in names:
        if not method.parameter(name) and not (name == "filename" and _file_of(method)):
            known = (parameter.name for parameter in method.parameters)
            raise NotFound(f"`{method.name}` has no parameter `{name}`.{near(name, known)}", param=name)
    if missing := [name for name in method.required if name not in given]:
        raise Invalid(f"`{method.name}` needs `{missing[0]}`.\nhint: {_example(table, method, verb)}", param=missing[0])

    if method.either and not any(given >= set(one) for one in method.either):
        sets = " or ".join(", ".join(f"`{name}`" for name in one) for one in method.either)
        raise Invalid(f"`{method.name}` needs {sets}.\nhint: {_example(table, method, verb)}")


def _example(table: Table, method: Method, verb: str) -> str:
    if verb == "INSERT":
        return f"SHOW INSERT INTO {table.name}"
    given = ", ".join(f"@{name} = '…'" for name in method.required)
    return (
        f"EXEC {table.name}.{method.name} {given}" if verb == "EXEC" else f"DESCRIBE METHOD {table.name}.{method.name}"
    )


def _file_of(method: Method) -> Parameter | None:
    return next((parameter for parameter in method.parameters if parameter.type == "file"), None)


def _arguments(method: Method, given: Mapping[str, Any], *, files: bool) -> dict[str, Any]:
    """The values as the SDK's method takes them; `@@json` holds more of them, and what no parameter is named after."""
    whole = given.get("@@json")
    more = _parsed("@@json", whole) if isinstance(whole, str) else whole or {}
    if not isinstance(more, dict):
        raise Invalid("@@json wants an object", param="@@json")
    named = {**{_name(name): value for name, value in more.items()}, **given}
    made: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in named.items():
        if parameter := method.parameter(name):
            made[name] = _argument(parameter, value, named.get("filename"), files=files)
            if parameter.type == "file" and method.path != parted.PATH:
                made[name] = _whole(parameter, made[name])
        elif name not in ("@@json", "filename"):
            extra[name] = value
    if missing := [name for name in method.required if made.get(name, "") == ""]:
        raise Invalid(f"`{method.name}` needs `{missing[0]}`, and a row has none", param=missing[0])
    return made | ({"extra_body": extra} if extra else {})


def _argument(parameter: Parameter, value: Any, filename: str | None, *, files: bool) -> Any:
    if parameter.type == "file":
        return _file(parameter, value, filename, files=files)
    if isinstance(value, str) and _is_nested(parameter.type):
        return _parsed(parameter.name, value)
    if parameter.type == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _plain(parameter, value)


def _is_nested(kind: Type) -> bool:
    return kind in ("object", "array") or not isinstance(kind, str)


def _parsed(name: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"`{name}` wants a struct, a list or JSON text, got {text[:60]!r}: {error}", param=name) from None


def _file(parameter: Parameter, value: Any, filename: str | None, *, files: bool) -> parted.Source:
    if isinstance(value, str):
        return filename or FILENAME, value.encode()
    if isinstance(value, bytes):
        return filename or FILENAME, value
    path = value.get(dialect.FILE) if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise Invalid(f"`{parameter.name}` wants file('path'), or a text to send as a file", param=parameter.name)
    if not files:
        raise Denied("Files cannot be read here", param=parameter.name)
    try:
        with Path(path).open("rb"):
            return filename or Path(path).name, Path(path)
    except OSError as error:
        raise Invalid(f"Cannot read {path}: {error.strerror}", param=parameter.name) from None


def _whole(parameter: Parameter, source: parted.Source) -> tuple[str, bytes]:
    """The file with its bytes in memory, as every method takes it but one."""
    name, held = source
    if isinstance(held, bytes):
        return name, held
    try:
        return name, held.read_bytes()
    except OSError as error:
        raise Invalid(f"Cannot read {held}: {error.strerror}", param=parameter.name) from None


def _plain(parameter: Parameter, value: Any) -> Any:
    """The value in JSON's words; the empty fields of a struct, which others of its list may have, are left out."""
    match value:
        case dict():
            return {key: _plain(parameter, item) for key, item in value.items() if item is not None}
        case list() | tuple():
            return [_plain(parameter, item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _ if hasattr(value, "isoformat"):
            return value.isoformat()
    if hasattr(value, "as_integer_ratio"):  # DECIMAL, as DuckDB reads 0.5
        return float(value)
    return str(value)
