"""Plot of the training losses over the steps, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
LINE_COLOURS = (("#1f6feb", "#b6d2f9"), ("#d4711a", "#f5d3b3"), ("#2da44e", "#b9e3c4"))
"""Colours of each line: smoothed, raw."""


def plot_losses(series: Mapping[str, Sequence[tuple[float, float]]]) -> Image:
    """Plot series of (step, loss) by name, at most as many as LINE_COLOURS: each light as measured, strong as smoothed.

    Losses that are not finite are left out.
    """
    from PIL import Image, ImageDraw

    lines: dict[str, list[tuple[float, float]]] = {}
    for name, measured in series.items():
        finite = [(step, loss) for step, loss in measured if math.isfinite(loss)]
        if finite:
            lines[name] = finite
    page = Image.new("RGB", (WIDTH * OVERSAMPLE, HEIGHT * OVERSAMPLE), BACKGROUND)
    draw = ImageDraw.Draw(page)
    steps = [step for points in lines.values() for step, _ in points] or [0.0, 1.0]
    losses = sorted(loss for points in lines.values() for _, loss in points) or [0.0, 1.0]
    # the axis ends at the 98th percentile: one spike must not flatten the rest
    percentile = losses[math.ceil(0.98 * (len(losses) - 1))]
    median = losses[len(losses) // 2]
    high = max(percentile, median * 1.2) * 1.05 or 1.0
    first, last = min(steps), max(steps)
    area = _PlotArea(first, max(last, first + 1), high)
    _draw_axes(draw, area)
    # all raw lines first, so that none covers a smoothed one
    for points, (_, light) in zip(lines.values(), LINE_COLOURS, strict=False):
        draw.line([area.to_pixels(step, loss) for step, loss in points], fill=light, width=OVERSAMPLE)
    for i, ((name, points), (strong, _)) in enumerate(zip(lines.items(), LINE_COLOURS, strict=False)):
        smoothed = [area.to_pixels(step, loss) for step, loss in smooth(points)]
        draw.line(smoothed, fill=strong, width=3 * OVERSAMPLE, joint="curve")
        _draw_legend(draw, len(lines) - i, name, strong)
    return page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


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
        # a loss above the axis is drawn at its upper end
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - self.first) / (self.last - self.first)
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(loss, self.high) / self.high
        return x * OVERSAMPLE, y * OVERSAMPLE


def _draw_axes(draw: ImageDraw, frame: _PlotArea) -> None:
    font = load_font(15 * OVERSAMPLE)
    for loss in axis_ticks(0.0, frame.high, 5):
        start, end = frame.to_pixels(frame.first, loss), frame.to_pixels(frame.last, loss)
        draw.line([start, end], fill=GRID_COLOUR, width=OVERSAMPLE)
        draw.text((start[0] - 10 * OVERSAMPLE, start[1]), f"{loss:g}", fill=MUTED_COLOUR, font=font, anchor="rm")
    for step in axis_ticks(frame.first, frame.last, 8):
        if step == int(step):
            x, y = frame.to_pixels(step, 0.0)
            draw.line([(x, y), (x, y + 6 * OVERSAMPLE)], fill=MUTED_COLOUR, width=OVERSAMPLE)
            draw.text((x, y + 10 * OVERSAMPLE), f"{int(step)}", fill=MUTED_COLOUR, font=font, anchor="mt")
    draw.line([frame.to_pixels(frame.first, 0.0), frame.to_pixels(frame.last, 0.0)], fill=MUTED_COLOUR,
              width=OVERSAMPLE)
    bottom = (HEIGHT - 12) * OVERSAMPLE
    draw.text(((LEFT + WIDTH - RIGHT) / 2 * OVERSAMPLE, bottom), "step", fill=TEXT_COLOUR, font=font, anchor="ms")
    draw.text((LEFT / 3 * OVERSAMPLE, TOP / 2 * OVERSAMPLE), "loss", fill=TEXT_COLOUR, font=font, anchor="lm")


def _draw_legend(draw: ImageDraw, place: float, name: str, colour: str) -> None:
    x, y = (WIDTH - RIGHT - 130 * place) * OVERSAMPLE, TOP / 2 * OVERSAMPLE
    draw.line([(x, y), (x + 28 * OVERSAMPLE, y)], fill=colour, width=4 * OVERSAMPLE)
    draw.text((x + 38 * OVERSAMPLE, y), name, fill=TEXT_COLOUR, font=load_font(15 * OVERSAMPLE), anchor="lm")
