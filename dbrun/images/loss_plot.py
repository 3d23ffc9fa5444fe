"""Plot of the training losses over the steps, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from dbrun.images.grid import BACKGROUND, MUTED_COLOUR, TEXT_COLOUR, load_font

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT, OVERSAMPLE = 960, 480, 2
"""Size of the plot in pixels, and the factor by which it is drawn larger and then reduced, for smooth lines."""
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 56, 60
"""Margins in pixels."""
GRID_COLOUR = "#d8dee4"
LINE_COLOURS = (("#1f6feb", "#b6d2f9"), ("#d4711a", "#f5d3b3"), ("#2da44e", "#b9e3c4"), ("#8250df", "#dcc9f7"),
                ("#cf222e", "#f6c1c5"), ("#0a7d8c", "#a9dbe1"))
"""Colours of each line: smoothed, raw."""
RAW_PERCENTILE = 0.98
"""Part of the measured losses that the axis is long enough for: one spike must not flatten the rest."""
MAX_SMOOTHED_RATIO = 3.0
"""The axis also holds the whole smoothed lines, as long as that makes it at most this many times longer."""
FAR_ABOVE = 50.0
"""Heights of the axis above which a loss is drawn at that height: Pillow's coordinates have 32 bits."""
DOT_RADIUS = 4
"""Radius in pixels of the dot for a series of one point."""

Points = list[tuple[float, float]]
"""Points (step, loss) of a line."""


def plot_losses(series: Mapping[str, Sequence[tuple[float, float]]]) -> Image:
    """Plot series of (step, loss) by name, at most as many as LINE_COLOURS: each light as measured, strong as smoothed.

    A line that is higher than the axis leaves the plot at its upper edge; a note counts such losses, and those that
    are not finite. Raises ValueError for more series than colours.
    """
    from PIL import Image, ImageDraw

    lines: dict[str, Points] = {}
    for name, measured in series.items():
        finite = [(step, loss) for step, loss in measured if math.isfinite(loss)]
        if finite:
            lines[name] = finite
    if len(lines) > len(LINE_COLOURS):
        raise ValueError(f"{len(lines)} lines to plot, and {len(LINE_COLOURS)} colours")
    smoothed = {name: smooth(points) for name, points in lines.items()}
    steps = [step for step, _ in _all_points(lines)] or [0.0, 1.0]
    first, last = min(steps), max(steps)
    area = _PlotArea(first, max(last, first + 1), _axis_height(lines, smoothed))

    page = Image.new("RGB", (WIDTH * OVERSAMPLE, HEIGHT * OVERSAMPLE), BACKGROUND)
    draw = ImageDraw.Draw(page)
    _draw_grid_lines(draw, area)
    # all raw lines first, so that none covers a smoothed one
    for points, (_, light) in zip(lines.values(), LINE_COLOURS, strict=False):
        _draw_line(draw, area, points, light, OVERSAMPLE)
    for points, (strong, _) in zip(smoothed.values(), LINE_COLOURS, strict=False):
        _draw_line(draw, area, points, strong, 3 * OVERSAMPLE)
    # lines that leave the plot at its upper edge are cut there, not bent along it
    draw.rectangle((0, 0, WIDTH * OVERSAMPLE, TOP * OVERSAMPLE - 1), fill=BACKGROUND)
    _draw_labels(draw, area)
    _draw_legend(draw, list(lines))
    _draw_note(draw, area, lines, sum(map(len, series.values())))
    return page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _all_points(lines: Mapping[str, Points]) -> Points:
    """The points of all lines."""
    return list(chain.from_iterable(lines.values()))


def _axis_height(lines: Mapping[str, Points], smoothed: Mapping[str, Points]) -> float:
    """Loss at the upper end of the axis."""
    losses = sorted(loss for _, loss in _all_points(lines)) or [0.0, 1.0]
    percentile = losses[math.ceil(RAW_PERCENTILE * (len(losses) - 1))]
    median = losses[len(losses) // 2]
    high = max(percentile, median * 1.2)
    highest_smoothed = max((loss for _, loss in _all_points(smoothed)), default=0.0)
    if highest_smoothed <= high * MAX_SMOOTHED_RATIO:
        high = max(high, highest_smoothed)
    return high * 1.05 or 1.0


def smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Exponential moving average of the losses in (step, loss) points, over about a fifteenth of the line."""
    decay = math.exp(-1 / max(1.0, len(points) / 15))
    total = weight = 0.0
    averaged = []
    for step, loss in points:
        total = decay * total + (1 - decay) * loss
        weight = decay * weight + (1 - decay)
        # Adam's bias correction: divided by its weight, the average does not start at zero
        averaged.append((step, total / weight))
    return averaged


def axis_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from low to high, about this many: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw)
    # 1e-9: a limit that is a tick itself must not be lost to rounding
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


class _PlotArea:
    """Map of steps and losses to pixels of the oversampled page."""

    def __init__(self, first: float, last: float, high: float) -> None:
        self.first, self.last, self.high = first, last, high

    def to_pixels(self, step: float, loss: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(loss / self.high, FAR_ABOVE)
        return x * OVERSAMPLE, y * OVERSAMPLE


def _draw_line(draw: ImageDraw, area: _PlotArea, points: Points, colour: str, width: int) -> None:
    pixels = [area.to_pixels(step, loss) for step, loss in points]
    draw.line(pixels, fill=colour, width=width, joint="curve")
    # a line of one point has no length
    if len(pixels) == 1:
        (x, y), radius = pixels[0], DOT_RADIUS * OVERSAMPLE
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_grid_lines(draw: ImageDraw, area: _PlotArea) -> None:
    for loss in axis_ticks(0.0, area.high, 5):
        draw.line([area.to_pixels(area.first, loss), area.to_pixels(area.last, loss)], fill=GRID_COLOUR,
                  width=OVERSAMPLE)


def _draw_labels(draw: ImageDraw, area: _PlotArea) -> None:
    """Numbers and names of both axes."""
    font = load_font(15 * OVERSAMPLE)
    for loss in axis_ticks(0.0, area.high, 5):
        x, y = area.to_pixels(area.first, loss)
        draw.text((x - 10 * OVERSAMPLE, y), f"{loss:g}", fill=MUTED_COLOUR, font=font, anchor="rm")
    for step in axis_ticks(area.first, area.last, 8):
        if step == int(step):
            x, y = area.to_pixels(step, 0.0)
            draw.line([(x, y), (x, y + 6 * OVERSAMPLE)], fill=MUTED_COLOUR, width=OVERSAMPLE)
            draw.text((x, y + 10 * OVERSAMPLE), f"{int(step)}", fill=MUTED_COLOUR, font=font, anchor="mt")
    draw.line([area.to_pixels(area.first, 0.0), area.to_pixels(area.last, 0.0)], fill=MUTED_COLOUR, width=OVERSAMPLE)
    bottom = (HEIGHT - 12) * OVERSAMPLE
    draw.text(((LEFT + WIDTH - RIGHT) / 2 * OVERSAMPLE, bottom), "step", fill=TEXT_COLOUR, font=font, anchor="ms")
    draw.text((LEFT / 3 * OVERSAMPLE, TOP / 2 * OVERSAMPLE), "loss", fill=TEXT_COLOUR, font=font, anchor="lm")


def _draw_legend(draw: ImageDraw, names: Sequence[str]) -> None:
    """Names of the lines in a row that ends at the right margin."""
    font = load_font(15 * OVERSAMPLE)
    x, y = (WIDTH - RIGHT) * OVERSAMPLE, TOP / 2 * OVERSAMPLE
    # from the right, since only the widths of the names tell where the first begins
    for i, name in reversed(list(enumerate(names))):
        x -= round(font.getlength(name))
        draw.text((x, y), name, fill=TEXT_COLOUR, font=font, anchor="lm")
        x -= 38 * OVERSAMPLE
        draw.line([(x, y), (x + 28 * OVERSAMPLE, y)], fill=LINE_COLOURS[i][0], width=4 * OVERSAMPLE)
        x -= 22 * OVERSAMPLE


def _draw_note(draw: ImageDraw, area: _PlotArea, lines: Mapping[str, Points], measured_count: int) -> None:
    """Count of the losses that are not in the plot, if there are any. measured_count: number of all losses."""
    losses = [loss for _, loss in _all_points(lines)]
    above = sum(loss > area.high for loss in losses)
    texts = []
    if above:
        texts.append(f"{above} above the axis, up to {max(losses):.3g}")
    if measured_count > len(losses):
        texts.append(f"{measured_count - len(losses)} no finite number")
    place = ((LEFT + 8) * OVERSAMPLE, (TOP + 4) * OVERSAMPLE)
    draw.text(place, "; ".join(texts), fill=MUTED_COLOUR, font=load_font(12 * OVERSAMPLE), anchor="lt")
