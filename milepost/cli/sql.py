"""`milepost sql`: one statement; rows on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from milepost.cli.providers import providers
from milepost.cli.rows import WRITERS, Format
from milepost.errors import Invalid
from milepost.sql.session import Outcome, Provider, Session


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
