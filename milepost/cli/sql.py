"""`milepost sql`: one statement; rows on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from milepost import config
from milepost.errors import Invalid
from milepost.sql.session import Outcome, Provider, Session, openai_provider

OPENAI_URL = "https://api.openai.com/v1"
#: What `milepost serve` leaves in the configuration folder.
LOCAL = "local.json"


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def sql(
    statement: Annotated[
        str | None, typer.Argument(help="The statement. Without it, and without -f, it is read from stdin.")
    ] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the statement from this file.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A value for '{{ NAME }}'; may be repeated.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How rows are written to stdout.")] = Format.TABLE,
) -> None:
    """Ask OpenAI, and your own machines, in SQL: SELECT, SHOW, DESCRIBE, EXEC.

    Providers: `openai` (OPENAI_API_KEY, OPENAI_BASE_URL), `openai_admin` (OPENAI_ADMIN_KEY), and `local`, the server
    that `milepost serve` started last (or MILEPOST_URL and MILEPOST_API_KEY).
    """
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of statements that we refuse in our own words
    text, params = _text(statement, file), _params(param or [])
    columns, rows = asyncio.run(_run(text, params, providers(os.environ)))
    WRITERS[form](columns, rows)


async def _run(
    text: str, params: Mapping[str, str], known: Mapping[str, Provider]
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    async with Session(known, on_use=_say_host) as session:
        result = await session.execute(text, params)
        if isinstance(result, Outcome):
            typer.echo(result.message, err=True)
            return list(result.value), [tuple(result.value.values())]
        return result.columns, await result.fetchall()


def _say_host(provider: Provider) -> None:
    typer.echo(f"{provider.name}: {provider.host}", err=True)


def _text(statement: str | None, file: Path | None) -> str:
    if statement is not None and file is not None:
        raise Invalid("Give the statement or -f FILE, not both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except OSError as error:
            raise Invalid(f"Cannot read {file}: {error.strerror}", param="file") from None
        except UnicodeDecodeError:
            raise Invalid(f"Cannot read {file}: it is not UTF-8", param="file") from None
    if statement is None and sys.stdin.isatty():
        raise Invalid('No statement.\nhint: milepost sql "SELECT id, status FROM local.fine_tuning.jobs"')
    return sys.stdin.read() if statement is None else statement


def _params(given: Sequence[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise Invalid(f"--param wants NAME=VALUE, got `{bad[0]}`", param="param")
    return {name: value for name, _, value in pairs}


# --- providers --------------------------------------------------------------------------------------------------------


def providers(environ: Mapping[str, str]) -> dict[str, Provider]:
    """The providers of a shell: the SDK's own variables, and the server that `milepost serve` left word of."""
    settings = config.load(environ)
    url = environ.get("OPENAI_BASE_URL") or OPENAI_URL
    organization = environ.get("OPENAI_ORG_ID")
    known = [
        openai_provider(
            "openai",
            base_url=url,
            api_key=environ.get("OPENAI_API_KEY"),
            key_from="set OPENAI_API_KEY (and OPENAI_BASE_URL for another server); `local` is your own server",
            organization=organization,
            project=environ.get("OPENAI_PROJECT_ID"),
        ),
        openai_provider(
            "openai_admin",
            base_url=url,
            api_key=environ.get("OPENAI_ADMIN_KEY"),
            organization=organization,
            root="openai_admin",
            key_from="set OPENAI_ADMIN_KEY",
        ),
        _local(settings),
    ]
    return {provider.name: provider for provider in known}


def _local(settings: config.Settings) -> Provider:
    path = settings.config_dir / LOCAL
    left: dict[str, str] = {}
    if path.exists():
        with suppress(ValueError):  # a note that cannot be read is none; the next start writes it anew
            left = json.loads(path.read_bytes())
    url = settings.url or left.get("url") or f"http://{settings.host}:{settings.port}/v1"
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if key is None and url == left.get("url"):  # to no other server than the one it is of
        key = left.get("key")
    return openai_provider(
        "local", base_url=url, api_key=key, key_from="start `milepost serve`, or set MILEPOST_API_KEY"
    )


# --- rows on stdout ---------------------------------------------------------------------------------------------------


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
