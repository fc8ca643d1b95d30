"""A file's report on a terminal: what keeps it from being trained first, then what deserves a look, then numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from milepost.checks.sentences import QUIET, duration
from milepost.resources.forecasts import Forecast
from milepost.resources.reports import (
    BadLine,
    Duplicates,
    FileReport,
    LineGroup,
    LineWarning,
    TokenCounts,
    ValidationCheck,
)

_MOST = 5


def page(report: FileReport, name: str, show: int) -> Iterator[RenderableType]:
    """The parts of the page, in order."""
    kind = f", {report.format}" if report.format else ""
    for_what = f" (for {' or '.join(report.methods)})" if report.methods else ""
    yield Text(f"{name}: {report.examples:,} examples{kind}{for_what}\n", style="bold")
    yield from _verdict(report, show)
    yield from _warnings(report)
    yield Padding(_numbers(report), (1, 0, 0, 0))


def _verdict(report: FileReport, show: int) -> Iterator[RenderableType]:
    if report.error:
        yield Text(f"✗ {report.error}", style="red")
    if report.bad_lines:
        yield from _bad_lines("cannot be trained on", report.bad_lines, report.bad[:show])
    elif report.error is None:
        yield Text("✓ Every line can be trained on", style="green")
    if report.validation is not None and report.validation.bad_lines:
        yield Text()
        what = "of the validation file cannot be used"
        yield from _bad_lines(what, report.validation.bad_lines, report.validation.bad[:show])


def _bad_lines(what: str, total: int, told: Sequence[BadLine]) -> Iterator[RenderableType]:
    yield Text(f"✗ {'1 line' if total == 1 else f'{total:,} lines'} {what}", style="red")
    table = _grid()
    for bad in told:
        table.add_row(Text(f"line {bad.line:,}"), _said(bad.reason, bad.fix))
    yield Padding(table, (0, 0, 0, 2))
    if total > len(told):
        yield Text(f"  … and {total - len(told):,} more (--show, --json)", style="dim")


def _warnings(report: FileReport) -> Iterator[RenderableType]:
    loud = [warning for warning in report.warnings if warning.kind not in QUIET]
    if loud:
        yield Text("\n! Can be trained on, but deserves a look", style="yellow")
        table = _grid()
        for warning in loud:
            table.add_row(_where(warning), _said(warning.reason, warning.fix))
        yield Padding(table, (0, 0, 0, 2))


def _numbers(report: FileReport) -> Table:
    table = _grid()
    for warning in report.warnings:
        if warning.kind in QUIET:
            table.add_row(Text("system message"), Text(f"{warning.lines:,} of {report.examples:,} lines have none"))
    if report.tokens is not None:
        _tokens(table, report.tokens, report.tokens_note)
    elif report.tokens_note:
        table.add_row(Text("tokens"), Text(report.tokens_note))
    if report.duplicates is not None:
        _duplicates(table, report.duplicates)
    if report.validation is not None:
        _validation(table, report.validation)
    if report.forecast is not None:
        _forecast(table, report.forecast)
    return table


def _tokens(table: Table, tokens: TokenCounts, note: str | None) -> None:
    about = "about " if tokens.is_estimate else ""
    learnt = "" if tokens.learnt is None else f", of which {tokens.learnt:,} carry loss ({tokens.learnt_share:.0%})"
    table.add_row(Text("tokens"), Text(f"{about}{tokens.total:,} ({tokens.model}){learnt}"))
    each = tokens.per_example
    table.add_row(
        Text("per example"), Text(f"{each.min:,} to {each.max:,}, median {each.median:,}, 95 % up to {each.p95:,}")
    )
    cut = "cuts none"
    if tokens.cut_examples:
        lines = ", ".join(f"{line:,}" for line in tokens.cut_lines[:_MOST])
        cut = f"cuts {about}{tokens.cut_examples:,} examples by {tokens.cut_tokens:,} tokens (lines {lines} …)"
    table.add_row(Text("limit"), Text(f"{tokens.limit:,} tokens: {cut}"))
    if tokens.unlearnt_lines:
        lines = ", ".join(f"{line:,}" for line in tokens.unlearnt_lines[:_MOST])
        table.add_row(Text("nothing to learn"), Text(f"lines {lines}"))
    if note:
        table.add_row(Text(""), Text(note, style="dim"))


def _duplicates(table: Table, found: Duplicates) -> None:
    exact = f"{found.exact:,} repeat an earlier example" + _such_as(found.exact_groups)
    near = f"{found.near:,} nearly do (similarity {found.threshold:g} or more, {found.compared:,} compared)"
    table.add_row(Text("duplicates"), Text(f"{exact}\n{near}{_such_as(found.near_groups)}"))


def _such_as(groups: tuple[LineGroup, ...]) -> str:
    if not groups:
        return ""
    return ": lines " + "; ".join(
        ", ".join(f"{line:,}" for line in group.lines[:_MOST]) + (" …" if group.count > _MOST else "")
        for group in groups[:3]
    )


def _validation(table: Table, found: ValidationCheck) -> None:
    text = f"{found.exact:,} of {found.examples:,} validation examples are trained on, {found.near:,} more nearly"
    if found.pairs:
        pairs = ", ".join(f"{pair.validation_line:,} = {pair.training_line:,}" for pair in found.pairs[:_MOST])
        text += f" (lines {pairs})"
    table.add_row(Text("validation"), Text(text))


def _forecast(table: Table, found: Forecast) -> None:
    about = "about " if found.is_estimate else ""
    epochs = "1 epoch" if found.epochs == 1 else f"{found.epochs} epochs"
    lines = [f"{found.steps:,} steps, {about}{found.tokens:,} tokens in {epochs}"]
    if found.seconds is not None:
        threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
        lines.append(f"{duration(found.seconds)} on this machine ({threads}, {found.dtype}) when it does nothing else")
    if found.memory_bytes is not None:
        lines.append(f"up to {found.memory_bytes / 1e9:.1f} GB of memory")
    if found.note:
        lines.append(found.note)
    table.add_row(Text("forecast"), Text("\n".join(lines)))


def _where(warning: LineWarning) -> Text:
    if warning.lines == 1:
        return Text(f"line {warning.examples[0]:,}")
    shown = ", ".join(f"{line:,}" for line in warning.examples[:3]) + (" …" if warning.lines > 3 else "")
    return Text(f"{warning.lines:,} lines\n{shown}")


def _said(reason: str, fix: str) -> Text:
    text = Text(reason)
    return text.append(f"\n→ {fix}", style="cyan") if fix else text


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
