"""The losses of a job over its steps, as rows, in the terminal, and as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from milepost.cli.charts import Chart
from milepost.cli.following import PAGE, Metrics, fresh_events
from milepost.errors import Invalid, NotFound

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from openai import AsyncOpenAI

SUFFIXES = (".png", ".svg", ".pdf")
COLUMNS = ("series", "step", "loss")
#: From so many steps on the curve is smoothed as well: the mean of a tenth of all steps around each.
SMOOTHED_FROM = 50

Curve = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Curves:
    """(step, loss) of what was measured, and the steps of the checkpoints."""

    job_id: str
    model: str
    train: Curve
    valid: Curve
    full_valid: Curve
    checkpoints: Sequence[int]


async def curves_of(client: AsyncOpenAI, job_id: str) -> Curves:
    job = await client.fine_tuning.jobs.retrieve(job_id)
    told = [_metrics(event.data) for event in await fresh_events(client, job_id, set()) if event.type == "metrics"]
    steps = [each for each in told if each is not None]
    if not steps:
        raise NotFound(f"Job `{job_id}` has not taken a step yet: it is {job.status}")
    published = client.fine_tuning.jobs.checkpoints.list(job_id, limit=PAGE)
    return Curves(
        job_id=job.id,
        model=job.fine_tuned_model or job.model,
        train=[(each.step, each.train_loss) for each in steps if each.train_loss is not None],
        valid=[(each.step, each.valid_loss) for each in steps if each.valid_loss is not None],
        full_valid=[(each.step, each.full_valid_loss) for each in steps if each.full_valid_loss is not None],
        checkpoints=sorted([each.step_number async for each in published]),
    )


def rows(curves: Curves) -> list[tuple[Any, ...]]:
    series = {"train_loss": curves.train, "valid_loss": curves.valid, "full_valid_loss": curves.full_valid}
    return [(name, step, loss) for name, points in series.items() for step, loss in points]


def chart(curves: Curves, width: int) -> list[str]:
    """The terminal's picture: the training loss as a curve, the others as letters on it."""
    marks = {"o": curves.valid, "◆": curves.full_valid}
    drawn = Chart(curves.train, marks, curves.checkpoints, width=max(20, width - 12)).lines()
    legend = ["⠒ train_loss"]
    legend += ["o valid_loss"] if curves.valid else []
    legend += ["◆ full_valid_loss"] if curves.full_valid else []
    legend += ["▲ checkpoint"] if curves.checkpoints else []
    return [f"{curves.job_id} · {curves.model}", "", *drawn, "", "   ".join(legend)]


def check(out: Path) -> None:
    """Before anything is asked for: can such a picture be written?"""
    if out.suffix.lower() not in SUFFIXES:
        raise Invalid(f"--out wants a name that ends with {', '.join(SUFFIXES)}, got `{out.name}`", param="out")
    if not out.parent.is_dir():
        raise Invalid(f"Cannot write {out}: there is no folder {out.parent}", param="out")
    if importlib.util.find_spec("matplotlib") is None:
        raise Invalid(
            "A picture needs matplotlib, which is not installed; without --out the terminal is drawn in\n"
            "hint: pip install 'milepost[plot]'",
            param="out",
        )


def draw(curves: Curves, out: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(9, 5), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _draw_curves(axes, curves)
        _draw_checkpoints(axes, curves)
        axes.set_title(curves.job_id, loc="left", fontsize=12, fontweight="bold", pad=30)
        axes.text(0, 1.065, curves.model, transform=axes.transAxes, color="0.35", fontsize=9)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(edgecolor="none", framealpha=0.85, loc="upper right")
        figure.savefig(out)


def _draw_curves(axes: Axes, curves: Curves) -> None:
    if len(curves.train) < SMOOTHED_FROM:
        axes.plot(*_axes(curves.train), color="#1f6fb2", lw=1.6, marker="o", ms=3, label="train_loss")
    else:
        axes.plot(*_axes(curves.train), color="#9ec5e8", lw=1, label="train_loss")
        axes.plot(*_axes(_smoothed(curves.train)), color="#1f6fb2", lw=2, label="train_loss, smoothed")
    if curves.valid:
        axes.plot(*_axes(curves.valid), ls="none", marker="o", ms=4, color="#e08a2e", alpha=0.8, label="valid_loss")
    if curves.full_valid:
        axes.plot(*_axes(curves.full_valid), lw=1.8, marker="D", ms=6, color="#b5322e", label="full_valid_loss")


def _draw_checkpoints(axes: Axes, curves: Curves) -> None:
    """A line each, and its step where there is room; the one with the lowest full validation loss says so."""
    for step in curves.checkpoints:
        axes.axvline(step, color="0.75", lw=0.8, ls=(0, (2, 3)), zorder=0)
    every = max(1, len(curves.checkpoints) // 12)
    for step in curves.checkpoints[::-1][::every]:
        axes.text(step, 1.01, f"{step}", transform=axes.get_xaxis_transform(), ha="center", color="0.4", fontsize=8)
    if curves.full_valid:
        step, loss = min(curves.full_valid, key=lambda point: point[1])
        axes.annotate(
            f"lowest {loss:.3f}", (step, loss), xytext=(0, 10), textcoords="offset points", ha="right",
            color="#b5322e", fontsize=9,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def _metrics(data: object) -> Metrics | None:
    try:
        return Metrics.model_validate(data)
    except ValidationError:  # another server's, without a loss
        return None


def _axes(points: Curve) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [loss for _, loss in points]


def _smoothed(points: Curve) -> Curve:
    """The mean around each point, of as many steps before it as after it, so that it neither lags nor leads."""
    reach = len(points) // 20
    smoothed = []
    for at, (step, _) in enumerate(points):
        half = min(reach, at, len(points) - 1 - at)
        window = points[at - half : at + half + 1]
        smoothed.append((step, sum(loss for _, loss in window) / len(window)))
    return smoothed
