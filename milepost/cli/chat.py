"""`milepost chat`: talk with a model in the terminal, or with two of them. Answers on stdout, the rest on stderr."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milepost import config
from milepost.cli.providers import providers
from milepost.errors import Invalid, Remote

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

#: The next line of whoever talks; None when there is none any more.
Read = Callable[[], Awaitable[str | None]]

HISTORY = "chat-history"
HELP = """\
/system TEXT   say how to answer, and begin anew; without TEXT, say nothing of it
/regenerate    answer the last message again
/help          this
/quit          end (so does Ctrl-D); Ctrl-C ends an answer"""


def chat(
    model: Annotated[str, typer.Argument(help="A base model, an alias, a tuned model or any checkpoint.")],
    *,
    compare: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Ask this model as well, and show its answers below.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What to say to the model before anything else.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 always gives the likeliest.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer.")] = None,
    provider: Annotated[
        str, typer.Option(help="Whom to ask: `local`, the server that `milepost serve` started last, or `openai`.")
    ] = "local",
) -> None:
    """Talk with a model. In a terminal there is a prompt; from a pipe each line is a message."""
    known = providers(os.environ)
    if provider not in ("local", "openai"):
        raise Invalid(f"No provider `{provider}` to chat with: local, openai", param="provider")
    given = {"temperature": temperature, "max_tokens": max_tokens}
    table = Table(
        client=known[provider].connect(),
        talks=[Talk(_text(name)) for name in (model, compare) if name is not None],
        system=_text(system or ""),
        options={name: value for name, value in given.items() if value is not None},
        is_local=provider == "local",
        is_patient=sys.stdin.isatty(),
    )
    typer.echo(f"{provider}: {known[provider].host}", err=True)
    asyncio.run(_converse(table, _prompt() if table.is_patient else _read_line))


@dataclass(slots=True)
class Talk:
    """One model's side of it. Turns always alternate: a message nobody answered is forgotten when the next is asked."""

    model: str
    before: list[dict[str, str]] = field(default_factory=list)
    message: str | None = None
    answer: str = ""

    def ask(self, message: str) -> None:
        if self.message is not None and self.answer:
            self.before += [_turn("user", self.message), _turn("assistant", self.answer)]
        self.message, self.answer = message, ""

    def begin_anew(self) -> None:
        self.before, self.message, self.answer = [], None, ""


@dataclass(slots=True)
class Table:
    """Who sits around it. `is_patient`: an error is told and the talk goes on, since a person is there to ask again."""

    client: AsyncOpenAI
    talks: list[Talk]
    system: str
    options: Mapping[str, float]
    is_local: bool
    is_patient: bool
    answering: asyncio.Task[None] | None = None
    is_over: bool = False


async def _converse(table: Table, read: Read) -> None:
    with _ctrl_c_bound(table):
        async with table.client:
            while not table.is_over and (line := await read()) is not None:
                await _take(table, line)


async def _take(table: Table, line: str) -> None:
    word, *rest = line.split(maxsplit=1) or [""]
    if word in COMMANDS:
        await COMMANDS[word](table, "".join(rest).strip())
    elif word.startswith("/"):
        typer.echo(f"No command {word}.\n{HELP}", err=True)
    elif word:
        await _say(table, line.strip())


@contextmanager
def _ctrl_c_bound(table: Table) -> Iterator[None]:
    """Ctrl-C ends an answer and never the talk, also where no answer is being made; of a pipe it ends all."""
    loop = asyncio.get_running_loop()

    def interrupt(_number: int, _frame: object) -> None:
        if table.answering is not None:
            loop.call_soon_threadsafe(table.answering.cancel)

    # Not the loop's own handlers: the prompt takes those away, and asyncio's would not end the reading of a line.
    before = signal.signal(signal.SIGINT, interrupt if table.is_patient else signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _say(table: Table, message: str) -> None:
    for talk in table.talks:
        talk.ask(message)
    await _answer(table)


async def _answer(table: Table) -> None:
    """Have each model answer the last message. Its answer before, if it gave one, stays until there is another."""
    for talk in table.talks:
        if len(table.talks) > 1:
            typer.echo(f"[{talk.model}]")
        if answer := await _hear(table, talk):
            talk.answer = answer
        elif talk.answer:
            typer.echo("Not answered again: the answer before stays.", err=True)
        else:
            typer.echo("Not answered: /regenerate asks again, another message takes its place.", err=True)


async def _hear(table: Table, talk: Talk) -> str:
    """What the model said, to its end or to Ctrl-C; nothing if it ended in an error."""
    pieces: list[str] = []
    table.answering = asyncio.create_task(_stream(table, talk, pieces))
    try:
        await table.answering
    except (Remote, asyncio.CancelledError) as error:
        if not table.is_patient:
            raise
        if isinstance(error, Remote):
            typer.echo(f"error: {error.message}", err=True)
            return ""
        if not pieces:
            typer.echo(err=True)  # ends the terminal's line of ^C
    return "".join(pieces)


async def _stream(table: Table, talk: Talk, pieces: list[str]) -> None:
    """Show an answer as it comes, and keep its pieces."""
    from openai import APIError

    system = [_turn("system", table.system)] if table.system else []
    messages = [*system, *talk.before, _turn("user", talk.message or "")]
    try:
        create: Any = table.client.chat.completions.create
        async with await create(model=talk.model, messages=messages, stream=True, **table.options) as frames:
            async for frame in frames:
                if piece := (frame.choices[0].delta.content or "") if frame.choices else "":
                    pieces.append(piece)
                    typer.echo(piece, nl=False)
                    sys.stdout.flush()
    except APIError as error:
        raise Remote(_words(error, table)) from None
    finally:
        if pieces:
            typer.echo()


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _words(error: APIError, table: Table) -> str:
    """The server's own sentence, without the SDK's words around it; of a connection, what became of it."""
    from openai import APIConnectionError

    if isinstance(error, APIConnectionError):
        hint = "\nhint: is `milepost serve` running?" if table.is_local else ""
        return f"No connection to {table.client.base_url}: {str(error.__cause__ or '') or error.message}{hint}"
    body = error.body if isinstance(error.body, dict) else {}
    return str(body.get("message") or error.message)


# --- commands ---------------------------------------------------------------------------------------------------------


async def _system(table: Table, text: str) -> None:
    table.system = text
    for talk in table.talks:
        talk.begin_anew()
    typer.echo("A new talk." if text else "A new talk, without a system message.", err=True)


async def _regenerate(table: Table, _: str) -> None:
    if any(talk.message is not None for talk in table.talks):
        await _answer(table)
    else:
        typer.echo("Nothing was asked yet.", err=True)


async def _help(_table: Table, _: str) -> None:
    typer.echo(HELP, err=True)


async def _quit(table: Table, _: str) -> None:
    table.is_over = True


COMMANDS: Mapping[str, Callable[[Table, str], Awaitable[None]]] = {
    "/system": _system,
    "/regenerate": _regenerate,
    "/help": _help,
    "/quit": _quit,
}


# --- reading ----------------------------------------------------------------------------------------------------------


async def _read_line() -> str | None:
    line = sys.stdin.buffer.readline()
    return _text(line.decode(errors="surrogateescape")) if line else None


def _text(given: str) -> str:
    """The same, if it is UTF-8: no request could carry what is not."""
    try:
        given.encode()
    except UnicodeEncodeError:
        raise Invalid(f"This is not UTF-8: {given.strip().encode(errors='surrogateescape')!r}") from None
    return given


def _prompt() -> Read:
    """A prompt with history; Ctrl-C empties the line, Ctrl-D ends. Not among answers that go to a file."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.output import create_output

    folder: Path = config.load(os.environ).config_dir
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / HISTORY
    file.touch(mode=0o600)
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(file)),
        output=None if sys.stdout.isatty() else create_output(sys.stderr),
    )
    typer.echo(HELP, err=True)

    async def read() -> str | None:
        try:
            return _text(await session.prompt_async("> "))
        except Invalid as error:
            typer.echo(f"error: {error.message}", err=True)
            return ""
        except KeyboardInterrupt:
            return ""
        except EOFError:
            return None

    return read
