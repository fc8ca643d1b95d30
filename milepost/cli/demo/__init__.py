"""`milepost demo`: one command that tunes a real model and shows every checkpoint answering meanwhile."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from milepost.errors import Unavailable

if TYPE_CHECKING:
    from milepost.cli.demo.report import Report

PICTURE_WIDTH = 120


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
    from milepost.cli.demo.story import tell
    from milepost.cli.screen import Screen

    console = Console(record=picture is not None, width=PICTURE_WIDTH if picture else None)
    moving = console.is_terminal and "NO_COLOR" not in os.environ and picture is None
    chosen = course.quick() if quick else course.full()
    measured = _run(tell(chosen, data, Screen(console, moving=moving), os.environ), data)
    if report:
        measured.write(report)
    if picture:
        picture.write_text(re.sub(r"sk-proj-\w+", "sk-proj-…", console.export_svg(title="milepost demo")))


def _run(story: Coroutine[Any, Any, Report], data: Path) -> Report:
    """The story to its end; Ctrl-C and a server that fails end it with a sentence."""
    from openai import OpenAIError

    try:
        return asyncio.run(story)
    except KeyboardInterrupt:
        typer.echo("\nStopped. Run the same command again: a job that was training goes on.", err=True)
        sys.exit(130)
    except (OpenAIError, ExceptionGroup) as error:
        first = _innermost(error)
        if isinstance(first, OpenAIError):
            raise Unavailable(f"The demo's server answered: {first}. Its logs are in {data}") from error
        raise first from error


def _innermost(error: BaseException) -> BaseException:
    """The first failure of a task group, which wraps what its tasks raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
