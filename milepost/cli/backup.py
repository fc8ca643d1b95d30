"""`milepost backup` and `milepost restore`: all there is as a folder, taken while servers and workers run."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from milepost import config
from milepost.errors import Corrupt, NotFound

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
) -> None:
    """Make a data folder of a backup; with MILEPOST_DATABASE_URL, and its rows in that database. Both must be empty.

    A backup of SQLite may be restored to Postgres, and the other way round.
    """
    from milepost.jobs import backup as backups

    settings = config.load(os.environ, data_dir=data)
    backups.restore(folder, settings).close()
    typer.echo(f"Restored to {settings.data_dir}. `milepost serve` serves it, and goes on with its jobs", err=True)
