"""Rows from the wire as Arrow of the catalog's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from milepost.errors import Remote
from milepost.sql.calls import Read
from milepost.sql.catalog import Column, Type
from milepost.sql.shapes import Convert

#: Every other type is JSON, which travels as text.
SCALARS: dict[type, Type] = {str: "string", int: "integer", float: "number", bool: "boolean"}
ARROW = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}


def schema(columns: Sequence[Column]) -> Any:
    return pa.schema([(column.name, _arrow_type(column.type)) for column in columns])


def table(columns: Sequence[Column], batches: Sequence[Any]) -> Any:
    return pa.Table.from_batches(batches, schema=schema(columns))


def batch(read: Read, rows: Sequence[Mapping[str, Any]], echo: Mapping[str, Any], request_id: str | None) -> Any:
    """The rows of one page, with their hidden columns. Fields the SDK does not know are left out, but for `_raw`; a
    value of another type is an error.
    """
    made = {"provider": read.provider, "_request_id": request_id, **echo}
    shown = [(column, [row.get(column.name) for row in rows]) for column in read.wanted]
    for column in read.hidden:
        if column.name == read.table.own_id and column.name not in echo:
            shown.append((column, [row.get("id") for row in rows]))
        elif column.name == "_raw":
            shown.append((column, list(rows)))
        else:
            shown.append((column, [made.get(column.name)] * len(rows)))
    return _batch(shown, read.table.name)


def rows_of(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], source: str) -> Any:
    """Rows of no call, as a table."""
    made = _batch([(column, [row.get(column.name) for row in rows]) for column in columns], source)
    return table(columns, [made])


def type_of(values: Sequence[Any]) -> Type:
    """The type of a field that the SDK does not know, by what it holds."""
    kinds = {type(value) for value in values if value is not None}
    return SCALARS.get(kinds.pop(), "any") if len(kinds) == 1 else "any"


def _batch(shown: Sequence[tuple[Column, list[Any]]], source: str) -> Any:
    arrays = []
    for column, values in shown:
        convert = _to_text(column.type)
        try:
            arrays.append(pa.array([convert(v) for v in values] if convert else values, _arrow_type(column.type)))
        except (pa.ArrowException, AttributeError, OverflowError, TypeError) as error:
            raise Remote(f"`{source}` sent a `{column.name}` that is not {column.datatype}: {error}") from None
    return pa.record_batch(arrays, schema=schema([column for column, _ in shown]))


def _arrow_type(kind: Type) -> Any:
    if isinstance(kind, dict):
        return pa.struct([(name, _arrow_type(field)) for name, field in kind.items()])
    return pa.list_(_arrow_type(kind[0])) if isinstance(kind, list) else ARROW.get(kind, pa.string())


def _to_text(kind: Type) -> Convert | None:
    """What puts JSON's text in the places of a value that are JSON; None where there is no such place."""
    if isinstance(kind, str):
        return None if kind in ARROW else lambda value: None if value is None else orjson.dumps(value).decode()
    if isinstance(kind, list):
        item = _to_text(kind[0])
        return None if item is None else lambda value: value and [item(one) for one in value]
    fields = {name: _to_text(field) for name, field in kind.items()}
    if not any(fields.values()):
        return None
    return lambda value: (
        None
        if value is None
        else {name: convert(value.get(name)) if convert else value.get(name) for name, convert in fields.items()}
    )
