"""The catalog's types as DuckDB's, and how DuckDB's values read in Python.

A model of one shape is a STRUCT; unions and free maps are JSON, which travels as text and is cast to JSON by DuckDB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from milepost.sql.catalog import Column, Type

DUCKDB = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}

Convert = Callable[[Any], Any]


def duckdb_type(kind: Type, json: str = "JSON") -> str:
    if isinstance(kind, dict):
        return f"STRUCT({', '.join(f'{quoted(name)} {duckdb_type(field, json)}' for name, field in kind.items())})"
    return f"{duckdb_type(kind[0], json)}[]" if isinstance(kind, list) else DUCKDB.get(kind, json)


def raw_type(kind: Type) -> str:
    """The type as it travels: JSON is text."""
    return duckdb_type(kind, "VARCHAR")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def projection(columns: Sequence[Column]) -> str:
    """The columns as they are read from Arrow: what travelled as text becomes JSON."""
    return ", ".join(f"CAST({quoted(c.name)} AS {duckdb_type(c.type)}) AS {quoted(c.name)}" for c in columns)


def reader(kind: Any) -> Convert | None:
    """What makes a value of this DuckDB type what its JSON says; None for types without JSON in them."""
    if str(kind) == "JSON":
        return lambda value: None if value is None else orjson.loads(value)
    if kind.id in ("list", "array"):
        return _list_reader(reader(kind.children[0][1]))
    if kind.id == "map":
        return _map_reader(reader(kind.children[1][1]))
    if kind.id == "struct":
        return _struct_reader({name: convert for name, child in kind.children if (convert := reader(child))})
    return None


def _list_reader(item: Convert | None) -> Convert | None:
    return None if item is None else lambda value: value and [item(one) for one in value]


def _map_reader(item: Convert | None) -> Convert | None:
    return None if item is None else lambda value: value and {key: item(one) for key, one in value.items()}


def _struct_reader(fields: dict[str, Convert]) -> Convert | None:
    if not fields:
        return None
    return lambda value: value and {**value, **{name: convert(value[name]) for name, convert in fields.items()}}
