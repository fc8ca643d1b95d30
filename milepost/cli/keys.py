"""`milepost keys`: the keys of a data folder, whether its server runs or not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from milepost import config
from milepost.errors import Invalid, NotFound

if TYPE_CHECKING:
    from milepost.store.database import Database
    from milepost.store.keys import Key

keys = typer.Typer(help="List, create and revoke API keys.", no_args_is_help=True, add_completion=False)

DATA = Annotated[Path | None, typer.Option("--data", help="Data folder, instead of MILEPOST_DATA_DIR.")]


@keys.command("list")
def list_keys(data: DATA = None) -> None:
    """List the keys, oldest first, and whose they are; their secrets are kept nowhere."""
    from milepost.store import keys as store

    table = Table("id", "kind", "project", "name", "key", "created", "used", "state", box=None)
    for column in table.columns:
        column.overflow = "fold"  # a narrow terminal loses nothing
    table.columns[0].no_wrap = table.columns[4].no_wrap = True  # they are there to be copied
    with _opened(data) as opened:
        for key in store.list_keys(opened):
            project = key.project_name if key.kind is store.KeyKind.PROJECT else "-"
            name = f"{key.service_account}: {key.name}" if key.service_account else key.name
            used = _day(key.last_used_at) if key.last_used_at else "never"
            table.add_row(
                key.id, key.kind, project, name, key.hint, _day(key.created_at), used, _state(key, time.time())
            )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="A name to know it by.")] = "unnamed",
    admin: Annotated[bool, typer.Option("--admin", help="An admin key: it manages projects and keys.")] = False,
    project: Annotated[
        str | None, typer.Option(help="The project it opens, by id or name, instead of the default project.")
    ] = None,
    data: DATA = None,
) -> None:
    """Create a key and print it. It is shown this once."""
    from milepost.store import keys as store

    if admin and project is not None:
        raise Invalid("An admin key is of no project: leave out --admin or --project", param="project")
    with _opened(data) as opened:
        kind = store.KeyKind.ADMIN if admin else store.KeyKind.PROJECT
        key, secret = store.create(opened, kind, name, time.time(), project=project)
    opens = "admin" if admin else f"project {key.project_name}"
    typer.echo(f"Created {key.id} ({opens}, {name}). This is the only time it is shown:", err=True)
    typer.echo(secret)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of the key, `key_…`: see `milepost keys list`.")],
    data: DATA = None,
) -> None:
    """Revoke a key at once and for good."""
    from milepost.store import keys as store

    with _opened(data) as opened:
        key = store.revoke(opened, key_id, time.time())
    typer.echo(f"Revoked {key.id} ({key.hint})", err=True)


@contextmanager
def _opened(data: Path | None) -> Iterator[Database]:
    from milepost.store import database

    settings = config.load(os.environ, data_dir=data)
    if not database.exists(settings):
        raise NotFound(f"There is no Milepost data in {settings.data_dir}. The first `milepost serve` makes it")
    opened = database.open_database(settings)
    try:
        yield opened
    finally:
        opened.close()


def _state(key: Key, now: float) -> str:
    """What became of a key: the first of its ends that has come."""
    if key.revoked_at is not None:
        return f"revoked {_day(key.revoked_at)}"
    if key.expires_at is not None and key.expires_at <= now:
        return f"expired {_day(key.expires_at)}"
    if key.project_archived_at is not None:
        return f"project archived {_day(key.project_archived_at)}"
    return "active"


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
