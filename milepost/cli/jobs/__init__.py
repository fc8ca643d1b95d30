"""`milepost jobs`: list, watch, plot and steer fine-tuning jobs, on this machine's server or another."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from milepost import errors
from milepost.cli.following import PAGE
from milepost.cli.providers import providers
from milepost.cli.rows import WRITERS, Format
from milepost.sql.providers import named

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI
    from openai.types.fine_tuning import FineTuningJob

T = TypeVar("T")

HELP = """List, watch, plot and steer fine-tuning jobs.

Jobs are those of the server that `milepost serve` started last on this machine (or MILEPOST_URL and MILEPOST_API_KEY);
with `--provider openai` those of OPENAI_BASE_URL and OPENAI_API_KEY."""

jobs = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False)

JOB = Annotated[str, typer.Argument(metavar="JOB", help="The id of the job, `ftjob-…`: see `milepost jobs list`.")]
PROVIDER = Annotated[
    str,
    typer.Option(
        help="Whose jobs: `local`, the server `milepost serve` started last, or `openai`, by OPENAI_BASE_URL and "
        "OPENAI_API_KEY."
    ),
]
FORMAT = Annotated[Format, typer.Option("--format", help="How rows are written; JSON has the API's whole objects.")]
LIMIT = Annotated[int, typer.Option(min=1, help="How many, the latest of them.")]

#: What `watch` ends with, by how the job did; 130 if it was left by Ctrl-C.
OUTCOMES = {"succeeded": 0, "failed": 11, "cancelled": 12}
LEFT = 130


@jobs.command("list")
def list_jobs(provider: PROVIDER = "local", limit: LIMIT = 20, form: FORMAT = Format.TABLE) -> None:
    """List the jobs, newest first."""

    async def ask(client: AsyncOpenAI) -> list[dict[str, Any]]:
        return await _latest(client.fine_tuning.jobs.list(limit=min(limit, PAGE)), limit, "jobs")

    _write(_asked(provider, ask), _job_row, form)


@jobs.command()
def watch(job: JOB, provider: PROVIDER = "local") -> None:
    """Watch a job until it has ended: how far it is, its loss, its checkpoints, its speed and the time left.

    Ends with 0 if the job succeeded, 11 if it failed, 12 if it was cancelled. Ctrl-C leaves the job running. A paused
    job is waited for. One request per look, twice a second at most.
    """
    from milepost.cli.jobs.watching import watch_job
    from milepost.cli.screen import Screen

    console = Console(width=None if sys.stdout.isatty() else 10_000)  # a line stays one where it is not read by eye
    screen = Screen(console, moving=console.is_terminal and "NO_COLOR" not in os.environ)
    try:
        # A server that is being restarted is waited for, some twenty seconds.
        ended = _asked(provider, lambda client: watch_job(client.with_options(max_retries=6), job, screen))
    except KeyboardInterrupt:
        typer.echo(
            f"\nNo longer watching; the job goes on. `milepost jobs watch {job}` shows it again, "
            f"`milepost jobs cancel {job}` ends it.",
            err=True,
        )
        sys.exit(LEFT)
    sys.exit(OUTCOMES[ended.status])


@jobs.command()
def plot(
    job: JOB,
    out: Annotated[
        Path | None, typer.Option(help="Write a picture (.png, .svg or .pdf) instead of drawing in the terminal.")
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Write the points as rows instead.")] = None,
    provider: PROVIDER = "local",
) -> None:
    """Plot the losses of a job over its steps, its checkpoints marked. It may still be running.

    A picture needs matplotlib: pip install 'milepost[plot]'.
    """
    from milepost.cli.jobs import plotting

    if out is not None and form is not None:
        raise errors.Invalid("Give --out or --format, not both", param="out")
    if out is not None:
        plotting.check(out)
    curves = _asked(provider, lambda client: plotting.curves_of(client, job))
    if out is not None:
        plotting.draw(curves, out)
        typer.echo(f"Wrote {out}", err=True)
    elif form is not None:
        WRITERS[form](plotting.COLUMNS, plotting.rows(curves))
    else:
        width = min(Console().width, 120) if sys.stdout.isatty() else 100
        typer.echo("\n".join(plotting.chart(curves, width)))


@jobs.command()
def events(job: JOB, provider: PROVIDER = "local", limit: LIMIT = 50, form: FORMAT = Format.TABLE) -> None:
    """Show the latest events of a job, oldest first."""

    async def ask(client: AsyncOpenAI) -> list[dict[str, Any]]:
        listed = client.fine_tuning.jobs.list_events(job, limit=min(limit, PAGE))
        return (await _latest(listed, limit, "events"))[::-1]

    _write(_asked(provider, ask), _event_row, form)


@jobs.command()
def checkpoints(job: JOB, provider: PROVIDER = "local", form: FORMAT = Format.TABLE) -> None:
    """Show the checkpoints of a job, lowest step first. Each answers under its model name."""

    async def ask(client: AsyncOpenAI) -> list[dict[str, Any]]:
        listed = client.fine_tuning.jobs.checkpoints.list(job, limit=PAGE)
        return [each.to_dict() async for each in listed][::-1]

    _write(_asked(provider, ask), _checkpoint_row, form)


@jobs.command()
def pause(job: JOB, provider: PROVIDER = "local", form: FORMAT = Format.TABLE) -> None:
    """Pause a job that is queued or running; a running one writes a checkpoint first."""
    _write([_asked(provider, lambda client: _told(client.fine_tuning.jobs.pause(job)))], _job_row, form)


@jobs.command()
def resume(job: JOB, provider: PROVIDER = "local", form: FORMAT = Format.TABLE) -> None:
    """Put a paused job back in the queue; it goes on exactly where it stopped."""
    _write([_asked(provider, lambda client: _told(client.fine_tuning.jobs.resume(job)))], _job_row, form)


@jobs.command()
def cancel(job: JOB, provider: PROVIDER = "local", form: FORMAT = Format.TABLE) -> None:
    """Cancel a job that has not ended, for good; its checkpoints go on answering."""
    _write([_asked(provider, lambda client: _told(client.fine_tuning.jobs.cancel(job)))], _job_row, form)


# --- asking


def _asked(provider: str, ask: Callable[[AsyncOpenAI], Coroutine[Any, Any, T]]) -> T:
    """What the API says; its errors in our own words."""
    chosen = named(providers(os.environ), provider)
    client = chosen.connect()
    import openai  # not before it is known where to and with which key

    async def talk() -> T:
        async with client:
            return await ask(client)

    try:
        return asyncio.run(talk())
    except openai.APIStatusError as error:
        raise _in_our_words(error) from None
    except openai.APIConnectionError as error:
        raise errors.Unavailable(
            f"Cannot reach {chosen.host}: {error.__cause__ or error}"
            + ("\nhint: start `milepost serve`" if provider == "local" else "")
        ) from None


#: Statuses of an answer that say what was wrong with the request; others are the server's failure.
REFUSALS: dict[int, type[errors.Error]] = {
    400: errors.Invalid,
    401: errors.Denied,
    403: errors.Forbidden,
    404: errors.NotFound,
    429: errors.Exhausted,
    503: errors.Unavailable,
}


def _in_our_words(error: openai.APIStatusError) -> errors.Error:
    body = error.body if isinstance(error.body, dict) else {}
    said = body.get("message") or f"status {error.status_code}: {error.response.text[:200] or 'no message'}"
    return REFUSALS.get(error.status_code, errors.Remote)(said)


async def _told(asked: Coroutine[Any, Any, FineTuningJob]) -> dict[str, Any]:
    return (await asked).to_dict()


async def _latest(listed: AsyncIterable[Any], limit: int, what: str) -> list[dict[str, Any]]:
    """The first of a list, newest first; that there are more is said."""
    found: list[dict[str, Any]] = []
    async for each in listed:
        if len(found) == limit:
            typer.echo(f"These are the latest {limit} {what}; --limit shows more.", err=True)
            break
        found.append(each.to_dict())
    return found


# --- rows


def _write(objects: Sequence[dict[str, Any]], row: Callable[[dict[str, Any]], dict[str, Any]], form: Format) -> None:
    """For people and spreadsheets the chosen columns, for programs everything the API said."""
    shown = list(objects) if form in (Format.JSON, Format.JSONL) else [row(each) for each in objects]
    columns = list(dict.fromkeys(name for each in (shown or [row({})]) for name in each))
    WRITERS[form](columns, [tuple(each.get(name) for name in columns) for each in shown])


def _job_row(job: dict[str, Any]) -> dict[str, Any]:
    progress = job.get("progress") or {}
    return {
        "id": job.get("id"),
        "status": job.get("status"),
        "model": job.get("model"),
        "created": _time(job.get("created_at")),
        "step": f"{progress['step']}/{progress.get('total_steps') or '?'}" if progress else None,
        "fine_tuned_model": job.get("fine_tuned_model"),
    }


def _event_row(event: dict[str, Any]) -> dict[str, Any]:
    return {"created": _time(event.get("created_at")), "level": event.get("level"), "message": event.get("message")}


def _checkpoint_row(checkpoint: dict[str, Any]) -> dict[str, Any]:
    metrics = checkpoint.get("metrics") or {}
    losses = ("train_loss", "valid_loss", "full_valid_loss")
    return {
        "step": checkpoint.get("step_number"),
        "created": _time(checkpoint.get("created_at")),
        **{name: None if metrics.get(name) is None else round(metrics[name], 4) for name in losses},
        "fine_tuned_model_checkpoint": checkpoint.get("fine_tuned_model_checkpoint"),
    }


def _time(at: int | None) -> str | None:
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
