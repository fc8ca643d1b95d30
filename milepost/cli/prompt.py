"""A plain prompt: a statement ends with `;` and Enter, whatever its lines; what was asked is kept from day to day."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from milepost.errors import Error
from milepost.sql.session import Session

if TYPE_CHECKING:
    from milepost.cli.sql import Asked

T = TypeVar("T")

LEAVE = frozenset({"exit", "quit", "exit;", "quit;"})
GREETING = "A statement ends with ; and Enter. `exit`, or Ctrl-D, leaves."


async def interact(session: Session, asked: Asked, history: Path, **of_prompt: Any) -> None:
    """Ask for statements until there are no more; an error ends its statement only."""
    from milepost.cli.sql import _say_errors, run_one

    prompt = _prompt(history, **of_prompt)
    typer.echo(GREETING, err=True)
    async with session:
        while True:
            try:
                text = await prompt.prompt_async("sql> ")
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.strip().lower() in LEAVE:
                return
            if not text.strip(" ;\n"):
                continue
            try:
                _say_errors(await _until_interrupted(run_one(session, text, asked)))
            except Error as error:
                typer.echo(f"error: {error.message}", err=True)
            except KeyboardInterrupt:
                typer.echo("Interrupted: its requests have ended", err=True)


async def _until_interrupted(statement: Coroutine[Any, Any, T]) -> T:
    """Ctrl-C ends the statement and not the prompt, which has the key to itself only while it asks."""
    loop, task, is_interrupted = asyncio.get_running_loop(), asyncio.create_task(statement), False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        loop.call_soon_threadsafe(task.cancel)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if is_interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _prompt(history: Path, **of_prompt: Any) -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        if not text or text.endswith(";") or text.lower() in LEAVE:
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    history.parent.mkdir(parents=True, exist_ok=True)
    return PromptSession(
        history=FileHistory(str(history)),
        lexer=PygmentsLexer(SqlLexer),
        multiline=True,
        key_bindings=keys,
        prompt_continuation="  -> ",
        **of_prompt,
    )
