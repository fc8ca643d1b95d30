"""Rows on stdout: a table for people, and three forms for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Any

import typer


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def _write_table(columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, values in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        is_number = any(isinstance(v, int | float | Decimal) and not isinstance(v, bool) for v in values)
        table.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(_as_text(value)) for value in row))
    console.print(table)
    typer.echo(f"{len(rows)} row{'' if len(rows) == 1 else 's'}", err=True)


def _write_json(columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    typer.echo("[\n" + ",\n".join(map(_json, objects)) + "\n]" if objects else "[]")


def _write_jsonl(columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        typer.echo(_json(dict(zip(columns, row, strict=True))))


def _write_csv(columns: Sequence[str], rows: list[tuple[Any, ...]]) -> None:
    """NULL is an empty field and the empty text is `""`, so that they can be told apart."""
    for line in (columns, *rows):
        typer.echo(",".join("" if value is None else _csv_field(_as_text(value)) for value in line))


WRITERS: dict[Format, Callable[[Sequence[str], list[tuple[Any, ...]]], None]] = {
    Format.TABLE: _write_table,
    Format.JSON: _write_json,
    Format.JSONL: _write_jsonl,
    Format.CSV: _write_csv,
}


def _csv_field(text: str) -> str:
    """The module csv tells NULL from the empty text only since Python 3.12."""
    needs_quotes = not text or any(letter in text for letter in ',"\r\n')
    return '"' + text.replace('"', '""') + '"' if needs_quotes else text


def _as_text(value: Any) -> str:
    if isinstance(value, bool | dict | list | tuple):
        return _json(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """The value in JSON's words: times as SQL writes them, numbers of any width, null for what is no number."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return _number(value)
        case _:
            return value.hex() if isinstance(value, bytes) else str(value)


def _number(value: float | Decimal) -> float | int | None:
    if not math.isfinite(value):
        return None
    is_whole = isinstance(value, Decimal) and value == value.to_integral_value()
    return int(value) if is_whole else float(value)
