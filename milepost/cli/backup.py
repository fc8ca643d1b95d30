"""`milepost backup` and `milepost restore`: all there is as a folder, taken while servers and workers run."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from milepost import config
from milepost.cli import folders
from milepost.errors import Conflict, Corrupt, NotFound

DATA = Annotated[Path | None, typer.Option("--data", help="Data folder, instead of MILEPOST_DATA_DIR.")]


def backup(
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    data: DATA = None,
) -> None:
    """Copy everything into a new folder while servers and workers run: rows, files, adapters, jobs under way.

    `milepost restore` makes a data folder of it.
    """
    from milepost.jobs import backup as backups
    from milepost.store.database import exists, open_database

    settings = config.load(os.environ, data_dir=data)
    if not exists(settings):
        raise NotFound(f"There is no Milepost data in {settings.data_dir}. The first `milepost serve` makes it")
    with closing(open_database(settings)) as database:
        kept = backups.save(database, folder)
    typer.echo(f"Kept {kept.blobs} files and adapters ({kept.bytes:,} bytes), {kept.jobs} jobs under way", err=True)
    typer.echo(str(kept.folder))
    if kept.damaged:
        raise Corrupt(
            f"The backup is made, but {len(kept.damaged)} files or adapters in {settings.data_dir} are missing or "
            f"damaged, and not in it: {', '.join(kept.damaged)}"
        )


def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `milepost backup` made.")],
    data: DATA = None,
    despite_damage: Annotated[
        bool, typer.Option("--despite-damage", help="Leave out what is damaged in the backup, and restore the rest.")
    ] = False,
) -> None:
    """Make a data folder of a backup; with MILEPOST_DATABASE_URL, and its rows in that database. Both must be empty.

    A backup of SQLite may be restored to Postgres, and the other way round. It is whole, or nothing is there: one that
    was interrupted is begun again by the same command.
    """
    from milepost.jobs import restoring

    settings = config.load(os.environ, data_dir=data)
    if folders.is_used(settings.data_dir):
        raise Conflict(f"A server or worker uses {settings.data_dir}: restore into an empty folder, and start it there")
    left_out = restoring.restore(folder, settings, despite_damage=despite_damage)
    typer.echo(f"Restored to {settings.data_dir}. `milepost serve` serves it, and goes on with its jobs", err=True)
    if left_out:
        raise Corrupt(f"Restored without what is damaged in the backup: {', '.join(left_out)}")
