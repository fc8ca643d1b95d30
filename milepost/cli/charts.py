"""Curves drawn with letters: a sparkline, and a chart in braille whose eight dots a letter are its pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

BLOCKS = "▁▂▃▄▅▆▇█"
#: Bits of a braille letter (U+2800): [row of four][column of two].
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Points = Sequence[tuple[int, float]]


def sparkline(values: Sequence[float], width: int) -> str:
    """The curve of the values in at most `width` letters, from its lowest to its highest."""
    means = _means([value for value in values if math.isfinite(value)], width)
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(BLOCKS[round((each - low) / span * (len(BLOCKS) - 1)) if span else 0] for each in means)


@dataclass(frozen=True, slots=True)
class Chart:
    """A curve in braille; other series as their own letters on top; `ticks` are steps marked below the axis."""

    curve: Points
    marks: Mapping[str, Points] = field(default_factory=dict)
    ticks: Sequence[int] = ()
    width: int = 72
    height: int = 16

    def lines(self) -> list[str]:
        """The chart, with a scale at its left and the first and last step below."""
        every = [point for points in (self.curve, *self.marks.values()) for point in points if math.isfinite(point[1])]
        if not every:
            return []
        top, low = max(value for _, value in every), min(value for _, value in every)
        names = {self.height // 2: f"{(top + low) / 2:.3f}"}
        if top > low:
            names |= {0: f"{top:.3f}", self.height - 1: f"{low:.3f}"}
        gutter = max(map(len, names.values()))
        last = max(step for step, _ in every)
        scale = _Scale(last, low, top, self.width, self.height)
        rows = [[chr(0x2800 + cell) if cell else " " for cell in row] for row in scale.braille(self.curve)]
        for letter, points in self.marks.items():
            for point in points:
                column, row = scale.cell(point)
                rows[row][column] = letter
        drawn = [f"{names.get(row, ''):>{gutter}} ┤{''.join(cells)}".rstrip() for row, cells in enumerate(rows)]
        below = ["─"] * self.width
        for step in self.ticks:
            below[scale.cell((step, low))[0]] = "▲"
        numbers = f"{1:<{self.width - len(str(last))}}{last}" if last > 1 else "1"
        return [*drawn, f"{'':>{gutter}} └{''.join(below)}", f"{'':>{gutter}}  {numbers}"]


@dataclass(frozen=True, slots=True)
class _Scale:
    last: int
    low: float
    top: float
    width: int
    height: int

    def pixel(self, point: tuple[int, float], across: int, down: int) -> tuple[int, int]:
        step, value = point
        x = (step - 1) / (self.last - 1) if self.last > 1 else 0.0
        y = (self.top - value) / (self.top - self.low) if self.top > self.low else 0.5
        return min(across - 1, round(x * (across - 1))), min(down - 1, round(y * (down - 1)))

    def cell(self, point: tuple[int, float]) -> tuple[int, int]:
        """The letter of a point: that of its pixel, so that marks lie on the curve."""
        column, row = self.pixel(point, 2 * self.width, 4 * self.height)
        return column // 2, row // 4

    def braille(self, curve: Points) -> list[list[int]]:
        """The letters' dots, with lines between one point and the next."""
        cells = [[0] * self.width for _ in range(self.height)]
        pixels = [self.pixel(point, 2 * self.width, 4 * self.height) for point in curve if math.isfinite(point[1])]
        for (x0, y0), (x1, y1) in zip(pixels, pixels[1:] or pixels, strict=False):
            length = max(abs(x1 - x0), abs(y1 - y0), 1)
            for at in range(length + 1):
                x, y = x0 + round((x1 - x0) * at / length), y0 + round((y1 - y0) * at / length)
                cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
        return cells


def _means(values: Sequence[float], most: int) -> list[float]:
    """The values, or the means of `most` pieces of them of about the same length."""
    if len(values) <= most:
        return list(values)
    edges = [round(number * len(values) / most) for number in range(most + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
