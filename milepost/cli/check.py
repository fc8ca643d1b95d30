"""`milepost check`: what is wrong with a file of training data, and what training on it would cost. Needs no server."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from milepost import config
from milepost.config import Settings
from milepost.errors import Invalid
from milepost.resources.forecasts import Speed
from milepost.resources.methods import MethodType
from milepost.store import bases, speeds

#: The exit code for a file that cannot be trained on: what was asked for cannot be done as it was asked.
NOT_TRAINABLE = 2

_MEASURE = "from milepost.modeling.speed import measure; print(measure().model_dump_json())"


def check(
    file: Annotated[Path, typer.Argument(help="A file of training data, one JSON object a line.")],
    *,
    validation: Annotated[Path | None, typer.Option(help="A validation file: what of it is trained on?")] = None,
    model: Annotated[
        str | None, typer.Option(help="The base model whose tokenizer counts. Default: MILEPOST_DEFAULT_BASE.")
    ] = None,
    method: Annotated[
        MethodType | None, typer.Option(help="The method the file is for. Default: the one its lines are of.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Bad lines to show; --json has up to 10,000.")] = 20,
    measure: Annotated[
        bool, typer.Option(help="Measure this machine for the forecast, if it was not yet: some seconds, once.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the report as JSON, as the API's files have it.")
    ] = False,
    bases_dir: Annotated[
        Path | None, typer.Option("--bases-dir", help="Cache of base models, instead of MILEPOST_BASES_DIR.")
    ] = None,
) -> None:
    """Check a file of training data: bad lines and how to mend them, tokens, duplicates, and what training will cost.

    Ends with exit code 2 if a job would refuse the file.
    """
    from milepost.api.reports import ask  # numpy: not for `--help`
    from milepost.checks.report import AT_LEISURE, examine

    settings = config.load(os.environ, bases_dir=bases_dir)
    speed = _speed(settings) if measure and _is_there(settings, model) else speeds.get(settings)
    question = ask(settings, AT_LEISURE, model=model, method=method, speed=speed)
    with ExitStack() as opened:
        training = opened.enter_context(_open(file))
        report = examine(training, question, None if validation is None else opened.enter_context(_open(validation)))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        from rich.console import Console

        from milepost.cli.report import page

        console = Console(highlight=False, width=None if sys.stdout.isatty() else 100)
        for part in page(report, file.name, show):
            console.print(part)
    if not report.is_trainable:
        raise typer.Exit(NOT_TRAINABLE)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Invalid(f"Cannot read {path}: {error.strerror}", param="file") from None


def _is_there(settings: Settings, model: str | None) -> bool:
    wanted = model or settings.default_base
    return bases.aliases(settings).get(wanted, wanted) in {base.name for base in bases.list_bases(settings)}


def _speed(settings: Settings) -> Speed | None:
    """What was measured of this machine, or a measurement in a process of its own: this one stays without torch."""
    from milepost.modeling import machine

    known = speeds.get(settings)
    if known is not None and known.stands(machine.name(), is_quiet_now=machine.is_quiet()):
        return known
    typer.echo("Measuring this machine for the forecast …", err=True)
    done = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=False)  # noqa: S603 (ours)
    if done.returncode:
        typer.echo(f"It could not be measured: {done.stderr.strip().splitlines()[-1]}", err=True)
        return known
    return speeds.put(settings, Speed.model_validate_json(done.stdout))
