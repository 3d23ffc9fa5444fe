"""Line plots of a report: an inline SVG of lines that stretches with the page, and labels that do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrun.images.loss_plot import axis_ticks, smooth

WIDTH, HEIGHT = 1000.0, 360.0
"""Size of the SVG's own coordinates; on the page it is stretched to the room that there is."""
MAX_POINTS = 400
"""Points of a line that are drawn, and values that can be read off it."""
LOG_RATIO = 8.0
"""Largest value over the median from which the axis is logarithmic: a spike is then in the plot, and the rest is not
flat. Nothing is ever cut off."""
TABLE_COLUMNS = 12
"""Steps of the table of values."""
LINE_STYLES = 8
"""Number of line styles of the page's style sheet; further lines repeat them."""

Points = Sequence[tuple[float, float]]
"""Points (step, value) of a line."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis. at: its place in percent of the axis, from the left or the bottom; text: its label."""

    at: float
    text: str


@dataclass(frozen=True)
class PlotLine:
    """A line of a plot. name: in the legend; style: number of its style; last: its last smoothed value as text.

    raw, smoothed: `d` attributes of SVG paths, "" for none; dot: centre of a line of one point, else None; values:
    [step, smoothed value] of the points that can be read off.
    """

    name: str
    style: int
    last: str
    raw: str
    smoothed: str
    dot: tuple[float, float] | None
    values: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A plot. first, last: steps at its left and right end; note: about values that are no numbers, "" for none."""

    lines: tuple[PlotLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    last: float
    low: float
    high: float
    is_log: bool
    note: str

    def as_data(self) -> dict[str, object]:
        """What the page's script needs to read values off the lines."""
        lines = [{"name": line.name, "values": line.values} for line in self.lines]
        return {"first": self.first, "last": self.last, "low": self.low, "high": self.high, "log": self.is_log,
                "lines": lines}

    def table_steps(self) -> list[float]:
        """The steps of the table of values: those of the longest line, thinned out."""
        longest = max(self.lines, key=lambda line: len(line.values))
        return [step for step, _ in thin_out(longest.values, TABLE_COLUMNS)]

    def table_row(self, line: PlotLine) -> list[float]:
        """The values of a line at the steps of the table, each of the nearest point."""
        return [min(line.values, key=lambda point: abs(point[0] - step))[1] for step in self.table_steps()]


def make_plot(series: Mapping[str, Points]) -> Plot | None:
    """The plot of series of (step, value) by name; None where no value is finite.

    The axis holds every finite value; it is logarithmic where some are far above the others.
    """
    finite: dict[str, list[tuple[float, float]]] = {}
    for name, points in series.items():
        kept = [(float(step), value) for step, value in points if math.isfinite(value)]
        if kept:
            finite[name] = kept
    if not finite:
        return None
    steps = [step for points in finite.values() for step, _ in points]
    values = [value for points in finite.values() for _, value in points]
    axes = _make_axes(steps, values)
    lines = tuple(_make_line(name, number, points, axes) for number, (name, points) in enumerate(finite.items()))
    whole_steps = [step for step in axis_ticks(axes.first, axes.last, 7) if step == int(step)]
    x_ticks = tuple(Tick(axes.across(step) / WIDTH * 100, f"{step:.0f}") for step in whole_steps)
    y_ticks = tuple(Tick(100 - axes.down(value) / HEIGHT * 100, f"{value:.4g}") for value in axes.value_ticks())
    missing = sum(map(len, series.values())) - len(values)
    note = f"{missing} values are not finite and are not drawn" if missing else ""
    return Plot(lines, x_ticks, y_ticks, axes.first, axes.last, axes.low, axes.high, axes.is_log, note)


@dataclass(frozen=True)
class _Axes:
    """The axes of a plot: steps from first to last, values from low to high."""

    first: float
    last: float
    low: float
    high: float
    is_log: bool

    def across(self, step: float) -> float:
        """Place of a step in the SVG, from its left."""
        return WIDTH * (step - self.first) / (self.last - self.first)

    def down(self, value: float) -> float:
        """Place of a value in the SVG, from its top."""
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return HEIGHT * (high - value) / (high - low)

    def value_ticks(self) -> list[float]:
        """Round values for the labels of the vertical axis."""
        if not self.is_log:
            return axis_ticks(self.low, self.high, 5)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        # over many decades 1 of each is enough
        leading = (1, 2, 5) if len(decades) < 4 else (1,)
        ticks = [digit * 10.0**decade for decade in decades for digit in leading]
        return [tick for tick in ticks if self.low <= tick <= self.high]


def _make_axes(steps: Sequence[float], values: Sequence[float]) -> _Axes:
    first, last = min(steps), max(steps)
    ordered = sorted(values)
    low, median, high = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    if low > 0 and high > LOG_RATIO * median:
        return _Axes(first, max(last, first + 1), low / 1.1, high * 1.1, is_log=True)
    # from zero, so that a small change does not look like a large one
    bottom, top = min(0.0, low), max(0.0, high) * 1.05
    if bottom == top:
        top = bottom + 1.0
    return _Axes(first, max(last, first + 1), bottom, top, is_log=False)


def _make_line(name: str, number: int, points: Points, axes: _Axes) -> PlotLine:
    smoothed = smooth(points)
    drawn = thin_out(smoothed, MAX_POINTS)
    dot = (axes.across(points[0][0]), axes.down(points[0][1])) if len(points) == 1 else None
    return PlotLine(name, number % LINE_STYLES, f"{smoothed[-1][1]:.4g}", _path(_envelope(points), axes),
                    _path(drawn, axes), dot, [(step, float(f"{value:.4g}")) for step, value in drawn])


def thin_out(points: Points, limit: int) -> list[tuple[float, float]]:
    """At most `limit` points, evenly spread, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    return [points[round(i * (len(points) - 1) / (limit - 1))] for i in range(limit)]


def _envelope(points: Points) -> list[tuple[float, float]]:
    """The points, or of many the lowest and the highest of each group: no spike is lost."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        group = points[start:start + size]
        lowest, highest = min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])
        kept += sorted({lowest, highest})
    return kept


def _path(points: Points, axes: _Axes) -> str:
    """The `d` attribute of a line through points; "" for fewer than two."""
    if len(points) < 2:
        return ""
    return "M" + "L".join(f"{axes.across(step):.1f} {axes.down(value):.1f}" for step, value in points)
