"""SHOW and DESCRIBE: what there is, as rows of a query, so that every statement's rows are read alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from milepost.sql.calls import Fixed, Plan
from milepost.sql.catalog import Column, Method, Parameter, Table, catalog_of, shipped
from milepost.sql.providers import Provider, named, table_of
from milepost.sql.statements import Describe, Show, ShowInsert, What
from milepost.sql.words import matches

Providers: TypeAlias = Mapping[str, Provider]
Shown: TypeAlias = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]


def show(statement: Show | ShowInsert | Describe, providers: Providers) -> Plan:
    match statement:
        case ShowInsert():
            texts = insert_texts(table_of(providers, *statement.table), statement.table)
            return plan_of(("statement",), [(text,) for text in texts])
        case Describe():
            return plan_of(*_describe(statement, table_of(providers, *statement.table)))
    columns, rows = SHOWN[statement.what](providers, statement.extended, *statement.of)
    if statement.like is not None:
        is_like = matches(statement.like)
        rows = [row for row in rows if is_like(row[0])]
    return plan_of(columns, rows)


def plan_of(columns: Sequence[str], rows: Sequence[Sequence[str | int | float | None]]) -> Plan:
    """The rows as a query's. A column of numbers is one."""
    kinds = [_kind([row[number] for row in rows]) for number in range(len(columns))]
    typed = tuple(Column(name, kind, "") for name, kind in zip(columns, kinds, strict=True))
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return Plan("SELECT * FROM _shown", (Fixed("_shown", typed, named),))


def _kind(values: Sequence[object]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return "integer" if kinds == {int} else "number" if kinds and kinds <= {int, float} else "string"


def insert_texts(table: Table, names: Sequence[str]) -> list[str]:
    """An INSERT to fill in for each method that makes a row: its required columns, then the others."""
    methods = [method for method in table.methods if method.verb == "INSERT"]
    if not methods:
        from milepost.sql.writes import not_there

        raise not_there("INSERT", table, (names[0], names[1], names[2]))
    return [insert_example(one, ".".join(names), [p for p in one.parameters if not p.required]) for one in methods]


def insert_example(method: Method, name: str, optional: Sequence[Parameter] = ()) -> str:
    names = dict.fromkeys((*method.required, *(method.either[0] if method.either else ())))
    required = [parameter for key in names if (parameter := method.parameter(key))]
    optional = optional if required or optional else [p for p in method.parameters if p.place == "body"][:2]
    shown = [*required, *(parameter for parameter in optional if parameter not in required)]
    if not shown:
        return f"INSERT INTO {name} SELECT '{{}}' AS \"@@json\" RETURNING *;"
    columns = ",\n  ".join(f"{parameter.name}" for parameter in shown)
    values = ",\n  ".join(blank(parameter) for parameter in shown)
    return f"INSERT INTO {name} (\n  {columns}\n)\nVALUES (\n  {values}\n)\nRETURNING *;"


def blank(parameter: Parameter) -> str:
    """The place for a value, with what fits it; a number and a truth stand without quotes."""
    text = f"'{{{{ {parameter.name} }}}}'"
    if parameter.type == "file":
        return f"file({text})"
    casts = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
    kind = casts.get(parameter.type) if isinstance(parameter.type, str) else None
    return f"{text}::{kind}" if kind else text


# --- what there is ----------------------------------------------------------------------------------------------------


def _describe(statement: Describe, table: Table) -> Shown:
    if statement.method:
        return _describe_method(shipped().method(table, statement.method), table, extended=statement.extended)
    columns = table.columns
    if not statement.extended:
        return ("name", "type"), [(column.name, column.datatype) for column in columns]
    rows = [(c.name, c.datatype, ", ".join(c.enum), c.description) for c in columns]
    return ("name", "type", "enum", "description"), rows


def _describe_method(method: Method, table: Table, *, extended: bool) -> Shown:
    taken = [
        (
            p.name,
            p.datatype,
            "input_required" if p.required else "input_optional",
            ", ".join(p.enum),
            p.default,
            p.description,
        )
        for p in sorted(method.parameters, key=lambda parameter: not parameter.required)
    ]
    given = [(c.name, c.datatype, "output", ", ".join(c.enum), "", c.description) for c in table.columns if method.page]
    columns = ("name", "type", "param_type", "enum", "default", "description")
    width = len(columns) if extended else 3
    return columns[:width], [row[:width] for row in (*taken, *given)]


def _providers(providers: Providers, _extended: bool) -> Shown:
    return ("name", "host"), [(provider.name, provider.host) for provider in providers.values()]


def _services(providers: Providers, extended: bool, provider: str) -> Shown:
    root = named(providers, provider).root
    services = catalog_of(root).services(root)
    if not extended:
        return ("name",), [(service,) for service in services]
    return ("name", "resources"), [
        (service, ", ".join(catalog_of(root).resources(root, service))) for service in services
    ]


def _resources(providers: Providers, extended: bool, provider: str, service: str) -> Shown:
    root = named(providers, provider).root
    names = catalog_of(root).resources(root, service)
    rows = [(name, f"{provider}.{service}.{name}") for name in names]
    if not extended:
        return ("name", "id"), rows
    tables = [catalog_of(root).table(root, service, name) for name in names]
    more = [(", ".join(sorted({method.verb for method in table.methods})), table.description) for table in tables]
    return ("name", "id", "verbs", "description"), [(*row, *rest) for row, rest in zip(rows, more, strict=True)]


def _methods(providers: Providers, extended: bool, provider: str, service: str, resource: str) -> Shown:
    methods = table_of(providers, provider, service, resource).methods
    rows = [(method.name, method.verb, ", ".join(method.required)) for method in methods]
    if not extended:
        return ("MethodName", "SQLVerb", "RequiredParams"), rows
    more = [
        (", ".join(map(_optional, (p for p in m.parameters if not p.required))), f"{m.http} {m.url}", m.description)
        for m in methods
    ]
    columns = ("MethodName", "SQLVerb", "RequiredParams", "OptionalParams", "Request", "Description")
    return columns, [(*row, *rest) for row, rest in zip(rows, more, strict=True)]


def _optional(parameter: Parameter) -> str:
    """The parameter with its type, the values it may have and its default."""
    values = f"{'|'.join(parameter.enum)}" if parameter.enum else parameter.datatype
    return f"{parameter.name} {values}" + (f" = {parameter.default}" if parameter.default else "")


SHOWN: dict[What, Callable[..., Shown]] = {
    "PROVIDERS": _providers,
    "SERVICES": _services,
    "RESOURCES": _resources,
    "METHODS": _methods,
}
