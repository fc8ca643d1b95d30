"""`milepost pull` and `milepost models`: base models into the cache, and what is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from milepost import config
from milepost.errors import Invalid
from milepost.resources.models import Base
from milepost.store import bases

BASES_DIR = Annotated[
    Path | None, typer.Option("--bases-dir", help="Cache of base models, instead of MILEPOST_BASES_DIR.")
]


def pull(
    name: Annotated[
        str, typer.Argument(help="smollm2-135m-instruct, tiny-random-llama, OWNER/NAME on the hub, or ./FOLDER.")
    ],
    from_dir: Annotated[
        Path | None,
        typer.Option("--from", help="Take the files from this folder.", exists=True, file_okay=False),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            help="A Jinja template for a base that has none, or instead of its own.", exists=True, dir_okay=False
        ),
    ] = None,
    bases_dir: BASES_DIR = None,
) -> None:
    """Fetch a base model into the cache shared by all data folders."""
    settings = config.load(os.environ, bases_dir=bases_dir)
    if from_dir is None and name.startswith((".", "/", "~")):
        from_dir = Path(name).expanduser().resolve()
        if not from_dir.is_dir():
            raise Invalid(f"There is no folder {from_dir}", param="name")
        name = from_dir.name
    base = fetch(settings, name, from_dir=from_dir, chat_template=chat_template)
    typer.echo(f"{base.name}  {base.parameters:,} parameters, context {base.context_length:,}, {base.hash[:12]}")


def models(bases_dir: BASES_DIR = None) -> None:
    """List the base models in the cache, and the names that stand for them."""
    settings = config.load(os.environ, bases_dir=bases_dir)
    found = bases.list_bases(settings)
    if not found:
        typer.echo(f"No base model in {settings.bases_dir}. Fetch one: milepost pull {settings.default_base}", err=True)
        return
    table = Table()
    for heading in ("model", "parameters", "context", "MB on disk", "licence"):
        table.add_column(heading, no_wrap=True)
    table.add_column("also answers to", overflow="fold")
    for base in found:
        table.add_row(
            base.name,
            f"{base.parameters:,}",
            f"{base.context_length:,}",
            f"{_bytes(bases.folder(settings, base.name)) / 1e6:,.1f}",
            base.license or "unknown",
            ", ".join(alias for alias, name in bases.aliases(settings).items() if name == base.name),
        )
    Console().print(table)


def fetch(
    settings: config.Settings, name: str, *, from_dir: Path | None = None, chat_template: Path | None = None
) -> Base:
    """Pull a base, showing a progress bar on stderr; what is in the cache already is returned at once."""
    from milepost.modeling.pull import pull as pull_base  # torch: seconds

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(name, total=None)

        def show(done: int, total: int, what: str) -> None:
            progress.update(bar, description=what, completed=done, total=total or None)

        return pull_base(
            bases.folder(settings, name), name, from_dir=from_dir, on_progress=show, chat_template=chat_template
        )


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
