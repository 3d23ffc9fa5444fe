"""How shapes are put on a canvas: ovals, limbs and polygons in picture units, drawn large and reduced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

SIDE = 64
"""Side of a finished picture in pixels; one picture unit is one pixel."""
OVERSAMPLE = 3

Point = tuple[float, float]
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """A filled outline (`closed`) or a stroke of `width` picture units through `points`."""

    points: tuple[Point, ...]
    width: float = 0.0
    closed: bool = True


def oval(centre: Point, rx: float, ry: float, degrees: float = 0.0) -> Shape:
    """An ellipse turned clockwise by `degrees`."""
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    ring = [(rx * math.cos(a), ry * math.sin(a)) for a in (math.tau * k / 28 for k in range(28))]
    return Shape(tuple((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in ring))


def limb(*points: Point, width: float) -> Shape:
    """A stroke with round ends and joints."""
    return Shape(points, width, closed=False)


def polygon(*points: Point) -> Shape:
    """A closed outline."""
    return Shape(points)


def curve(start: Point, bend: Point, end: Point, width: float) -> Shape:
    """A stroke along a quadratic Bézier curve."""
    steps = [k / 7 for k in range(8)]
    return Shape(
        tuple(
            (
                (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * bend[0] + t * t * end[0],
                (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * bend[1] + t * t * end[1],
            )
            for t in steps
        ),
        width,
        closed=False,
    )


def shade(colour: Rgb, factor: float) -> Rgb:
    """The colour made darker (`factor` < 1) or mixed with white (`factor` > 1, 2 is white)."""
    if factor <= 1:
        return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))
    return mix(colour, (255, 255, 255), factor - 1)


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """A blend: `share` of the second colour, the rest of the first."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return (r, g, b)


@dataclass(frozen=True)
class Frame:
    """Where a figure's own coordinates lie on the canvas: feet at `origin`, enlarged by `scale`."""

    origin: Point = (0.0, 0.0)
    scale: float = 1.0

    def to_canvas(self, shape: Shape) -> Shape:
        """The shape in canvas units."""
        points = tuple((self.origin[0] + x * self.scale, self.origin[1] + y * self.scale) for x, y in shape.points)
        return replace(shape, points=points, width=shape.width * self.scale)


class Canvas:
    """A picture being drawn; everything is given in picture units and drawn `OVERSAMPLE` times as large."""

    def __init__(self, background: Rgb = (255, 255, 255)) -> None:
        """Start with one flat colour."""
        self.image = Image.new("RGB", (SIDE * OVERSAMPLE, SIDE * OVERSAMPLE), background)
        self._draw = ImageDraw.Draw(self.image)

    def fill(self, colour: Rgb, *shapes: Shape, frame: Frame | None = None) -> None:
        """Paint shapes in one colour."""
        for shape in shapes:
            _paint(self._draw, frame.to_canvas(shape) if frame else shape, colour, 0.0)

    def fill_outlined(self, colour: Rgb, shapes: Sequence[Shape], frame: Frame, line: float = 0.9) -> None:
        """Paint shapes as one body: a dark rim around their union, the colour inside."""
        placed = [frame.to_canvas(shape) for shape in shapes]
        rim = mix(shade(colour, 0.3), (30, 20, 30), 0.5)
        for shape in placed:
            _paint(self._draw, shape, rim, line)
        for shape in placed:
            _paint(self._draw, shape, colour, 0.0)

    def fill_masked(self, mask: Sequence[Shape], colour: Rgb, marks: Sequence[Shape], frame: Frame) -> None:
        """Paint `marks` only where they lie inside the shapes of `mask`."""
        inside = Image.new("L", self.image.size, 0)
        pen = ImageDraw.Draw(inside)
        for shape in marks:
            _paint(pen, frame.to_canvas(shape), 255, 0.0)
        window = Image.new("L", self.image.size, 0)
        pen = ImageDraw.Draw(window)
        for shape in mask:
            _paint(pen, frame.to_canvas(shape), 255, 0.0)
        blank = Image.new("L", self.image.size, 0)
        blank.paste(inside, mask=window)
        self.image.paste(colour, mask=blank)

    def gradient(self, top: Rgb, bottom: Rgb, start: float, end: float) -> None:
        """Fill the rows from `start` to `end` with a vertical blend."""
        rows = range(round(start * OVERSAMPLE), round(end * OVERSAMPLE))
        for row in rows:
            share = (row - rows.start) / max(len(rows) - 1, 1)
            self._draw.line([(0, row), (self.image.width, row)], fill=mix(top, bottom, share))

    def to_image(self) -> Image.Image:
        """The picture at its real size, 64×64 RGB."""
        return self.image.reduce(OVERSAMPLE)


def _paint(draw: ImageDraw.ImageDraw, shape: Shape, colour: Rgb | int, grow: float) -> None:
    points = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in shape.points]
    if shape.closed:
        draw.polygon(points, fill=colour)
        if grow:
            draw.line([*points, points[0]], fill=colour, width=round(2 * grow * OVERSAMPLE), joint="curve")
        return
    width = (shape.width + 2 * grow) * OVERSAMPLE
    draw.line(points, fill=colour, width=round(width), joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)
