"""`milepost sql`: one statement, or a prompt; rows on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from milepost import config
from milepost.cli.providers import providers
from milepost.cli.rows import LINES, Format, write, write_as_they_come, write_parquet
from milepost.errors import Invalid, Remote
from milepost.sql.session import Outcome, Provider, Session
from milepost.sql.words import seconds

#: The exit code of a statement that went on after errors.
PARTIAL = 4


class Dialect(StrEnum):
    DUCKDB = "duckdb"
    SQLITE = "sqlite"


@dataclass(frozen=True, slots=True)
class Asked:
    """How the statements of one command are run and shown."""

    params: Mapping[str, str]
    form: Format
    output: Path | None
    dialect: Literal["duckdb", "sqlite"]
    all_rows: bool
    dry_run: bool


def sql(  # noqa: PLR0917 (they are the command's options)
    statement: Annotated[
        str | None,
        typer.Argument(help="The statement. Without it, and without -f, it is read from stdin or asked for."),
    ] = None,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Read the statement from this file.")] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A value for '{{ NAME }}'; may be repeated.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How rows are written.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where Parquet is written.")] = None,
    dialect: Annotated[Dialect, typer.Option(help="How the statement is read.")] = Dialect.DUCKDB,
    database: Annotated[
        Path | None, typer.Option("--database", help="A file that keeps your views and tables.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the requests of a change; send none of them.")
    ] = False,
    all_rows: Annotated[bool, typer.Option("--all", help="Let UPDATE and DELETE change more rows than one.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse what changes an API's resources.")] = False,
    budget: Annotated[int | None, typer.Option(min=0, help="How often a statement may ask a model.")] = None,
    watch: Annotated[str | None, typer.Option(metavar="TIME", help="Ask again and again, such as every 2s.")] = None,
) -> None:
    """Ask OpenAI, and your own machines, in SQL.

    Providers: `openai` (OPENAI_API_KEY, OPENAI_BASE_URL), `openai_admin` (OPENAI_ADMIN_KEY), `local`, the server that
    `milepost serve` started last (or MILEPOST_URL and MILEPOST_API_KEY), and those of providers.toml.
    """
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of statements that we refuse in our own words
    is_asked_for = statement is None and file is None and sys.stdin.isatty()
    text = "" if is_asked_for else _text(statement, file)
    asked = Asked(_params(param or []), form, output, dialect.value, all_rows, dry_run)
    every_s = seconds(watch) if watch else None
    settings = config.load(os.environ)
    session = Session(
        providers(os.environ),
        read_only=read_only,
        database=database,
        environ=os.environ,
        budget=settings.sql_budget if budget is None else budget,
        on_use=_say_host_once(),
        on_wait=_say_wait,
        on_look=lambda line: typer.echo(line, err=True),
    )
    if is_asked_for:
        from milepost.cli.prompt import interact

        asyncio.run(interact(session, asked, settings.config_dir / "history"))
        return
    if errors := asyncio.run(_run(session, text, asked, every_s)):
        _say_errors(errors)
        raise typer.Exit(PARTIAL)


async def _run(session: Session, text: str, asked: Asked, every_s: float | None) -> Sequence[Remote]:
    async with session:
        while every_s is not None:
            if sys.stdout.isatty():
                typer.echo("\x1b[2J\x1b[H", nl=False)
            _say_errors(await run_one(session, text, asked))
            sys.stdout.flush()
            await asyncio.sleep(every_s)
        return await run_one(session, text, asked)


async def run_one(session: Session, text: str, asked: Asked) -> Sequence[Remote]:
    """Run a statement and write what it gives; the errors it went on after."""
    result = await session.execute(
        text, asked.params, dialect=asked.dialect, all_rows=asked.all_rows, dry_run=asked.dry_run
    )
    if isinstance(result, Outcome):
        typer.echo(result.message, err=True)
        values = result.values or ((result.value,) if result.value else ())
        if values:
            columns = list(dict.fromkeys(name for value in values for name in value))
            write(asked.form, columns, [tuple(value.get(name) for name in columns) for value in values])
        return result.errors
    if asked.form is Format.PARQUET:
        write_parquet([batch async for batch in result.batches()], result.schema, asked.output)
    elif asked.form in LINES:
        async with aclosing(result.chunks()) as chunks:  # whoever reads may have enough: then the requests end
            await write_as_they_come(asked.form, result.columns, chunks)
    else:
        write(asked.form, result.columns, await result.fetchall())
    return result.errors


def _say_host_once() -> Callable[[Provider], None]:
    """Say where each provider is when it is first asked; an AWAIT asks it again and again."""
    said: set[str] = set()

    def say(provider: Provider) -> None:
        if provider.name not in said:
            said.add(provider.name)
            typer.echo(f"{provider.name}: {provider.host}", err=True)

    return say


def _say_wait(provider: Provider, wait_s: float, request_id: str | None) -> None:
    of = f" (request {request_id})" if request_id else ""
    typer.echo(f"{provider.name}: 429, every request waits {wait_s:.1f} s{of}", err=True)


def _say_errors(errors: Sequence[Remote]) -> None:
    for error in errors:
        typer.echo(f"error: {error.message}", err=True)


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
    return sys.stdin.read() if statement is None else statement


def _params(given: Sequence[str]) -> dict[str, Any]:
    pairs = [pair.partition("=") for pair in given]
    if bad := [name for name, equals, _ in pairs if not equals or not name]:
        raise Invalid(f"--param wants NAME=VALUE, got `{bad[0]}`", param="param")
    return {name: value for name, _, value in pairs}
