"""A job on the console: lines that stay, and one bar that moves; only lines where nothing can move."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from milepost.cli.charts import sparkline

#: Without a bar that moves, a line each so many steps of the job.
LINES_PER_RUN = 12
BAR_WIDTH = 30


class Screen:
    """Owns the console while a job is shown. A person looks on, so everything goes to stdout."""

    def __init__(self, console: Console, *, moving: bool) -> None:
        self.console = console
        self.moving = moving
        self._began = time.monotonic()

    def title(self, text: str) -> None:
        clock = time.strftime("%M:%S", time.gmtime(time.monotonic() - self._began))
        self.console.print()
        self.console.print(Rule(f"[bold]{escape(text)}[/]  [dim]{clock}[/]", align="left", characters="─"))

    def say(self, text: str, style: str = "") -> None:
        self.console.print(escape(text), style=style, highlight=False)

    def line(self, text: str) -> None:
        """One line, cut where the console ends."""
        self.console.print(escape(text), highlight=False, no_wrap=True, overflow="ellipsis")

    def code(self, text: str) -> None:
        """Something to copy: never wrapped, never marked up."""
        self.console.print(escape(text), style="cyan", highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_lines=True)
        for column in columns:
            table.add_column(escape(column), overflow="fold", vertical="top")
        for row in rows:
            table.add_row(*(escape(_shown(value)) for value in row))
        self.console.print(table)

    def records(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Rows with too many columns for a table: a line for each value."""
        for row in rows:
            grid = Table.grid(padding=(0, 2))
            for column, value in zip(columns, row, strict=True):
                grid.add_row(f"[dim]{escape(column)}[/]", escape(_shown(value)))
            self.console.print(grid)
            self.console.print()

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        """A bar for the steps of one job."""
        if not self.moving:
            yield Bar(self, None)
            return
        with Live(console=self.console, transient=True) as live:
            yield Bar(self, live)


class Bar:
    """The progress of one job: step, loss, tokens per second and time left."""

    def __init__(self, screen: Screen, live: Live | None) -> None:
        self._screen = screen
        self._live = live
        self._losses: list[float] = []
        self._step = 0
        self._told = 0.0

    def move(self, step: int, total: int, loss: float | None, tokens_per_s: float | None, left_s: float | None) -> None:
        """Show where it is; again for the same step when only its speed has changed. A skipped step has no loss."""
        if step != self._step and loss is not None:
            self._losses.append(loss)
        self._step = step
        facts = f"loss {self._losses[-1]:.3f}" if self._losses else "no loss yet"
        facts += "" if tokens_per_s is None else f" · {tokens_per_s:,.0f} tokens/s"
        facts += "" if left_s is None else f" · {duration(left_s)} left"
        if self._live is not None:
            self._live.update(self._picture(step, total, facts))
        elif step > self._told and (step == total or step - self._told >= total / LINES_PER_RUN):
            self._screen.say(f"  step {step}/{total} · {facts}", "dim")
            self._told = step

    def _picture(self, step: int, total: int, facts: str) -> Table:
        """Two lines, so that they fit 80 columns: how far it is, and how it goes."""
        picture = Table.grid(padding=(0, 1))
        picture.add_row("training", ProgressBar(total=total, completed=step, width=BAR_WIDTH), f"step {step}/{total}")
        picture.add_row("", Text(sparkline(self._losses, BAR_WIDTH), style="cyan"), Text(facts))
        return picture


def duration(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(each)}" for name, each in value.items())
    if value is None:
        return "NULL"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
