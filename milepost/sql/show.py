"""SHOW and DESCRIBE: what there is, as rows of a query, so that every statement's rows are read alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from sqlglot import exp

from milepost.sql import dialect
from milepost.sql.calls import Plan
from milepost.sql.catalog import shipped
from milepost.sql.providers import Provider, named, table_of
from milepost.sql.statements import Describe, Show, What
from milepost.sql.words import matches

Providers: TypeAlias = Mapping[str, Provider]
Shown: TypeAlias = tuple[tuple[str, ...], list[tuple[str, ...]]]


def show(statement: Show, providers: Providers) -> Plan:
    columns, rows = SHOWN[statement.what](providers, *statement.of)
    if statement.like is not None:
        is_like = matches(statement.like)
        rows = [row for row in rows if is_like(row[0])]
    return _plan(columns, rows)


def describe(statement: Describe, providers: Providers) -> Plan:
    columns = table_of(providers, *statement.table).columns
    if statement.extended:
        return _plan(("name", "type", "description"), [(c.name, c.datatype, c.description) for c in columns])
    return _plan(("name", "type"), [(column.name, column.datatype) for column in columns])


def _providers(providers: Providers) -> Shown:
    return ("name", "host"), [(provider.name, provider.host) for provider in providers.values()]


def _services(providers: Providers, provider: str) -> Shown:
    return ("name",), [(service,) for service in shipped().services(named(providers, provider).root)]


def _resources(providers: Providers, provider: str, service: str) -> Shown:
    names = shipped().resources(named(providers, provider).root, service)
    return ("name", "id"), [(name, f"{provider}.{service}.{name}") for name in names]


def _methods(providers: Providers, provider: str, service: str, resource: str) -> Shown:
    methods = table_of(providers, provider, service, resource).methods
    return (
        ("MethodName", "SQLVerb", "RequiredParams"),
        [(method.name, method.verb, ", ".join(method.required)) for method in methods],
    )


SHOWN: dict[What, Callable[..., Shown]] = {
    "PROVIDERS": _providers,
    "SERVICES": _services,
    "RESOURCES": _resources,
    "METHODS": _methods,
}


def _plan(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Plan:
    values = exp.values(rows or [("",) * len(columns)], alias="shown", columns=columns)
    return Plan(dialect.generate(exp.select("*").from_(values).limit(len(rows))), ())
