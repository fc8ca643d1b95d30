"""How rows are written: for people, for other programs, for files."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import typer

from milepost.errors import Invalid


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"
    PARQUET = "parquet"


Row = tuple[Any, ...]

#: The most rows that are fitted to a terminal: it takes 0.1 ms for each value.
FITTED = 2000
#: Lines that are written at once.
AT_ONCE = 2000


def write(form: Format, columns: Sequence[str], rows: list[Row]) -> None:
    """The rows on stdout, as text."""
    WRITERS[form](columns, rows)


async def write_as_they_come(form: Format, columns: Sequence[str], chunks: AsyncIterator[list[Row]]) -> None:
    """The rows of a format of LINES on stdout, as text; nothing before the first of them, or the last, is there."""
    write_first, write_more = LINES[form]
    nothing: list[Row] = []
    first = await anext(chunks, nothing)
    write_first(columns, first)
    async for rows in chunks:
        write_more(columns, rows)


def write_parquet(batches: Sequence[Any], schema: Any, output: Path | None) -> None:
    """Arrow's batches as a Parquet file, or on stdout if that is no terminal."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_batches(batches, schema=schema)
    if output is None and sys.stdout.isatty():
        raise Invalid("Parquet is not for a terminal.\nhint: -o rows.parquet, or > rows.parquet", param="output")
    target: Path | BinaryIO = output or sys.stdout.buffer
    parquet.write_table(table, target)


def _write_table(columns: Sequence[str], rows: list[Row]) -> None:
    of_columns = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    are_numbers = [
        any(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)
        for values in of_columns
    ]
    if sys.stdout.isatty() and len(rows) <= FITTED:
        _write_fitted(columns, rows, are_numbers)
    else:
        _write_aligned(columns, of_columns, are_numbers)
    typer.echo(f"{len(rows)} row{'' if len(rows) == 1 else 's'}", err=True)


def _write_fitted(columns: Sequence[str], rows: list[Row], are_numbers: Sequence[bool]) -> None:
    """As wide as the terminal; long values are folded."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, is_number in zip(columns, are_numbers, strict=True):
        table.add_column(Text(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(_as_text(value)) for value in row))
    Console(highlight=False).print(table)


def _write_aligned(columns: Sequence[str], of_columns: Sequence[Sequence[Any]], are_numbers: Sequence[bool]) -> None:
    """As wide as its values, some thousand rows at a time."""
    texts = [
        [column, *("NULL" if value is None else _as_text(value) for value in values)]
        for column, values in zip(columns, of_columns, strict=True)
    ]
    widths = [max(_width(line) for text in column for line in text.split("\n")) for column in texts]
    lines = [""]
    for number, cells in enumerate(zip(*texts, strict=True)):
        for parts in zip_longest(*(cell.split("\n") for cell in cells), fillvalue=""):
            padded = (
                " " * (width - _width(part)) + part if is_number else part + " " * (width - _width(part))
                for part, width, is_number in zip(parts, widths, are_numbers, strict=True)
            )
            lines.append(" " + "   ".join(padded).rstrip())
        if number == 0:
            lines.append(" " + "───".join("─" * width for width in widths))
        if len(lines) > AT_ONCE:
            typer.echo("\n".join(lines))
            lines.clear()
    if lines:
        typer.echo("\n".join(lines))


def _width(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _write_json(columns: Sequence[str], rows: list[Row]) -> None:
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    typer.echo("[\n" + ",\n".join(map(_json, objects)) + "\n]" if objects else "[]")


def _write_jsonl(columns: Sequence[str], rows: list[Row]) -> None:
    if rows:
        typer.echo("\n".join(_json(dict(zip(columns, row, strict=True))) for row in rows))


def _write_markdown(columns: Sequence[str], rows: list[Row]) -> None:
    for line in (columns, ["---"] * len(columns), *rows):
        cells = (
            "NULL" if value is None else _as_text(value).replace("|", "\\|").replace("\n", "<br>") for value in line
        )
        typer.echo(f"| {' | '.join(cells)} |")


def _write_csv(columns: Sequence[str], rows: list[Row]) -> None:
    _write_csv_lines(columns, [tuple(columns), *rows])


def _write_csv_lines(_columns: Sequence[str], rows: list[Row]) -> None:
    """NULL is an empty field and the empty text is `""`, so that they can be told apart."""
    lines = (",".join("" if value is None else _csv_field(_as_text(value)) for value in row) for row in rows)
    if rows:
        typer.echo("\n".join(lines))


WRITERS: dict[Format, Callable[[Sequence[str], list[Row]], None]] = {
    Format.TABLE: _write_table,
    Format.JSON: _write_json,
    Format.JSONL: _write_jsonl,
    Format.CSV: _write_csv,
    Format.MARKDOWN: _write_markdown,
}


#: Formats whose rows can be written as they come: for the first, and for those that follow.
LINES: dict[Format, tuple[Callable[[Sequence[str], list[Row]], None], Callable[[Sequence[str], list[Row]], None]]] = {
    Format.JSONL: (_write_jsonl, _write_jsonl),
    Format.CSV: (_write_csv, _write_csv_lines),
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
