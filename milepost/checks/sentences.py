"""A report's findings as sentences, for events and terminals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from milepost.resources.forecasts import Forecast
from milepost.resources.reports import FileReport, LineGroup

#: Common, and no sign of a mistake: in the report, but told nobody who did not ask.
QUIET = frozenset({"missing_system"})
_MOST = 5


def findings(report: FileReport) -> Iterator[tuple[str, dict[str, object]]]:
    """What deserves a look though the file can be trained on, each with its numbers."""
    for warning in report.warnings:
        if warning.kind not in QUIET:
            yield (
                f"{_lines(warning.examples, warning.lines)}: {warning.reason}. {warning.fix}",
                {"kind": warning.kind, "lines": warning.lines, "first": list(warning.examples)},
            )
    found = report.duplicates
    if found is not None and found.exact:
        example = f", such as lines {_numbers(found.exact_groups[0])}"
        yield f"{_examples(found.exact)} an earlier one{example}", {"kind": "duplicates", "examples": found.exact}
    if found is not None and found.near:
        example = f", such as lines {_numbers(found.near_groups[0])}"
        yield (
            f"{_examples(found.near, 'nearly ')} an earlier one{example}",
            {"kind": "near_duplicates", "examples": found.near},
        )
    beside = report.validation
    if beside is not None and (count := beside.exact + beside.near):
        pair = beside.pairs[0]
        sentence = (
            f"{count} of {beside.examples} validation examples are trained on too ({beside.near} of "
            f"them nearly), such as line {pair.validation_line}, which is line {pair.training_line} of the training "
            "file: what they measure is memory"
        )
        yield sentence, {"kind": "overlap", "exact": beside.exact, "near": beside.near}


def foreseen(forecast: Forecast) -> str:
    """One sentence: steps and tokens, and time and memory where they are known."""
    about = "about " if forecast.is_estimate else ""
    text = (
        f"Forecast: {forecast.steps:,} steps over {about}{forecast.tokens:,} tokens in "
        f"{forecast.epochs} {'epoch' if forecast.epochs == 1 else 'epochs'}"
    )
    if forecast.seconds is not None:
        text += f", {duration(forecast.seconds)} at {forecast.tokens_per_second:,.0f} tokens/s"
    if forecast.memory_bytes is not None:
        text += f", up to {forecast.memory_bytes / 1e9:.1f} GB of memory"
    if forecast.threads is not None and forecast.seconds is not None:
        text += f" with {forecast.threads} {'thread' if forecast.threads == 1 else 'threads'} of this machine"
    return text + (f". {forecast.note}" if forecast.note else "")


def duration(seconds: float) -> str:
    """Two units at most: "4 min 10 s"."""
    whole = max(1, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _lines(numbers: Sequence[int], count: int) -> str:
    shown = ", ".join(map(str, numbers[:_MOST])) + (" …" if count > _MOST else "")
    return f"Line {shown}" if count == 1 else f"{count:,} lines ({shown})"


def _numbers(group: LineGroup) -> str:
    return ", ".join(map(str, group.lines[:_MOST])) + (" …" if group.count > _MOST else "")


def _examples(count: int, how: str = "") -> str:
    return f"1 example {how}repeats" if count == 1 else f"{count:,} examples {how}repeat"
