"""`milepost demo`: one command that tunes a real model and shows every checkpoint answering meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    data: Annotated[Path, typer.Option(help="The demo's data folder.")] = Path("milepost-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="With a tiny random model: under a minute, and it learns nothing.")
    ] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write what was measured as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the output as SVG.", hidden=True)] = None,
) -> None:
    """Tune a real model on this machine: fetch it, train it, chat with its checkpoints, ask about them in SQL.

    What is done already is not done again: a second run shows the job of the first.
    """
    from milepost.cli.demo import course
    from milepost.cli.demo.screen import Screen
    from milepost.cli.demo.story import tell

    console = Console(record=picture is not None, width=110 if picture else None, highlight=False)
    moving = console.is_terminal and "NO_COLOR" not in os.environ and picture is None
    told = tell(course.quick() if quick else course.full(), data, Screen(console, moving=moving), os.environ)
    try:
        measured = asyncio.run(told)
    except KeyboardInterrupt:
        typer.echo("\nStopped. Run the same command again: a job that was training goes on.", err=True)
        sys.exit(130)
    if report:
        measured.write(report)
    if picture:
        console.save_svg(str(picture), title="milepost demo")
