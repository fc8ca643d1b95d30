"""`milepost serve` and `milepost worker`: the commands. What they build is in `milepost.cli.server`."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milepost import __version__, config, logs
from milepost.config import Settings
from milepost.errors import Unavailable

if TYPE_CHECKING:
    from milepost.cli.server import Running


def serve(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8000.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder. Default: ./milepost-data.")] = None,
    worker: Annotated[
        bool, typer.Option("--worker/--no-worker", help="Train too, or leave that to `milepost worker` (Postgres).")
    ] = True,
) -> None:
    """Serve the API and train its jobs. Ctrl-C ends it; a job in training saves its state and goes on next time."""
    from milepost.cli.server import start_server  # SQLAlchemy, FastAPI: not for `--help`

    settings = config.load(os.environ, port=port, host=host, data_dir=data)
    logs.configure(settings.log_format, settings.log_level)
    stop = _stop_on_signals()
    with start_server(settings, os.environ, works=worker) as server:
        _greet(settings, server)
        while not stop.wait(1.0):
            if not server.is_whole():
                raise Unavailable("A part of the server has ended; the log above tells why")
        typer.echo("Stopping: jobs in training save their state. Ctrl-C again does not wait for them.", err=True)
    typer.echo("Stopped.", err=True)


def worker(
    data: Annotated[Path | None, typer.Option(help="Data folder, the same for all. Default: ./milepost-data.")] = None,
) -> None:
    """Train the jobs of servers that share a Postgres database and a data folder. Ctrl-C ends it; a job in training
    saves its state, and the next worker goes on.
    """
    from milepost.cli.server import run_worker  # SQLAlchemy: not for `--help`

    settings = config.load(os.environ, data_dir=data)
    logs.configure(settings.log_format, settings.log_level)
    stop = _stop_on_signals()
    typer.echo(f"Milepost {__version__} works on the jobs in {settings.data_dir}. Ctrl-C ends it.", err=True)
    run_worker(settings, os.environ, stop)
    typer.echo("Stopped.", err=True)


def _stop_on_signals() -> threading.Event:
    """Set by the first SIGINT or SIGTERM; the second ends the process as it would any other."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop


def _greet(settings: Settings, server: Running) -> None:
    """Keys go to the terminal once; what a shell can evaluate goes to stdout, the rest to stderr."""
    typer.echo(f"Milepost {__version__} serves {settings.data_dir} at {server.url}. Ctrl-C ends it.", err=True)
    if server.secrets is None:
        return
    typer.echo("\nThis is the first start. Its two keys are shown this once; only their hashes are kept.", err=True)
    typer.echo(f"  project key  {server.secrets.project_key}", err=True)
    typer.echo(f"  admin key    {server.secrets.admin_key}", err=True)
    typer.echo("\nPoint any OpenAI SDK here:\n", err=True)
    typer.echo(f"export OPENAI_BASE_URL={server.url}\nexport OPENAI_API_KEY={server.secrets.project_key}")
