"""`milepost export`: a tuned model as a folder that other programs read."""

from __future__ import annotations

import os
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from milepost import config
from milepost.errors import Invalid, NotFound


class Form(StrEnum):
    PEFT = "peft"
    MERGED = "merged"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def export(  # noqa: PLR0917 (a command's parameters are its options)
    model: Annotated[str, typer.Argument(help="Name of a tuned model or a checkpoint, `ft:…`.")],
    to: Annotated[Form, typer.Option(help="peft: the adapter alone. merged: a whole model, with its tokenizer.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    dtype: Annotated[
        Dtype | None, typer.Option(help="Of a merged model's weights. bfloat16 is half as large and rounds them.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data folder, instead of MILEPOST_DATA_DIR.")] = None,
    bases_dir: Annotated[
        Path | None, typer.Option("--bases-dir", help="Cache of base models, instead of MILEPOST_BASES_DIR.")
    ] = None,
) -> None:
    """Write a tuned model into a folder that peft or transformers loads."""
    from milepost.store import models
    from milepost.store.database import exists, open_database

    if to is Form.PEFT and dtype is not None:
        raise Invalid(
            "--dtype is for merged models: an adapter is written as it was trained, in float32", param="dtype"
        )
    settings = config.load(os.environ, data_dir=data, bases_dir=bases_dir)
    if not exists(settings):
        raise NotFound(f"There is no Milepost data in {settings.data_dir}. The first `milepost serve` makes it")
    with closing(open_database(settings)) as database:
        base, adapter = models.sources(database, settings, model)

    from milepost.modeling.export import export_merged, export_peft

    if to is Form.PEFT:
        export_peft(adapter, base, out)
    else:
        export_merged(adapter, base, out, dtype or Dtype.FLOAT32)
    typer.echo(str(out))
