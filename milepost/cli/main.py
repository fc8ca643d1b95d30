"""The `milepost` command: a table of commands, each imported when it is asked for.

Start-up time is a feature (`milepost sql` is typed by hand), and a command's needs are its own: the server's libraries
may be missing where only SQL is used.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from milepost import __version__, errors

#: What there is, in the order of `--help`: where its function or group lies.
COMMANDS = {
    "demo": "milepost.cli.demo:demo",
    "serve": "milepost.cli.serve:serve",
    "worker": "milepost.cli.serve:worker",
    "chat": "milepost.cli.chat:chat",
    "jobs": "milepost.cli.jobs:jobs",
    "sql": "milepost.cli.sql:sql",
    "keys": "milepost.cli.keys:keys",
    "doctor": "milepost.cli.doctor:doctor",
    "check": "milepost.cli.check:check",
    "pull": "milepost.cli.pull:pull",
    "models": "milepost.cli.pull:models",
    "replay": "milepost.cli.replay:replay",
    "export": "milepost.cli.export:export",
    "backup": "milepost.cli.backup:backup",
    "restore": "milepost.cli.backup:restore",
}

#: The code a command ends with. 1 is a fault of ours, with a traceback; 2, what was asked for cannot be done as it was
#: asked; 3, an API that SQL asked has failed; 4, SQL went on after errors (ON ERROR CONTINUE); 5, AWAIT timed out.
EXIT_CODES: dict[type[errors.Error], int] = {
    errors.Invalid: 2,
    errors.NotFound: 2,
    errors.Denied: 2,
    errors.Forbidden: 2,
    errors.Remote: 3,
    errors.TimedOut: 5,
    errors.Conflict: 6,
    errors.Exhausted: 7,
    errors.Unavailable: 8,
    errors.Corrupt: 9,
    errors.Full: 10,
}


class Commands(TyperGroup):
    """The commands of the table, imported one by one."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (the base's signature)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 (the base's signature)
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), name)
        if not isinstance(found, typer.Typer):
            function, found = found, typer.Typer(add_completion=False)
            found.command(cmd_name)(function)
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"milepost {__version__}")
        raise typer.Exit


@app.callback()
def milepost(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The OpenAI fine-tuning API on your own machines, and every resource in it a SQL table."""


def main() -> None:
    """Run the command line. Errors of ours are a line on stderr and an exit code, never a traceback."""
    try:
        app(prog_name="milepost")
    except errors.Error as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(EXIT_CODES[type(error)])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "milepost":
            raise
        typer.echo(f"error: this command needs `{error.name}`, which is not installed", err=True)
        extras = "server,postgres" if error.name == "psycopg" else "server"
        typer.echo(f"hint: pip install 'milepost[{extras}]'", err=True)
        sys.exit(1)
