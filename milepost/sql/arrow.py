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
    arrays = []
    for column in read.columns:
        convert = _to_text(column.type)
        if column.name == read.table.own_id and column in read.hidden and column.name not in echo:
            values = [row.get("id") for row in rows]
        elif column in read.hidden and column.name == "_raw":
            values = list(rows)
        elif column in read.hidden:
            values = [made.get(column.name)] * len(rows)
        else:
            values = [row.get(column.name) for row in rows]
        try:
            arrays.append(pa.array([convert(v) for v in values] if convert else values, _arrow_type(column.type)))
        except (pa.ArrowException, AttributeError, OverflowError, TypeError) as error:
            raise Remote(f"`{read.table.name}` sent a `{column.name}` that is not {column.datatype}: {error}") from None
    return pa.record_batch(arrays, schema=schema(read.columns))


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
