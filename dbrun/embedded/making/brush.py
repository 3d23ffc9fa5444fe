"""Shapes and the canvas they are painted on: ovals, limbs and polygons, drawn three times as large and reduced.

Lengths are picture units: one unit is one pixel of the finished picture, y points downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

SIDE = 64
"""Side of a finished picture in pixels."""
OVERSAMPLE = 3
"""Factor by which the canvas is larger than the picture: Pillow draws without anti-aliasing."""

Point = tuple[float, float]
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """Filled outline (`closed`), or stroke of `width` picture units through `points`."""

    points: tuple[Point, ...]
    width: float = 0.0
    closed: bool = True


def oval(centre: Point, rx: float, ry: float, degrees: float = 0.0) -> Shape:
    """Ellipse with radii rx and ry, turned clockwise by `degrees`."""
    turn = math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    # 28 corners look round at 64 pixels
    angles = [math.tau * k / 28 for k in range(28)]
    ring = [(rx * math.cos(angle), ry * math.sin(angle)) for angle in angles]
    return Shape(tuple((centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in ring))


def limb(*points: Point, width: float) -> Shape:
    """Stroke through points, with round ends and joints."""
    return Shape(points, width, closed=False)


def polygon(*points: Point) -> Shape:
    """Filled outline with these corners."""
    return Shape(points)


def curve(start: Point, bend: Point, end: Point, width: float) -> Shape:
    """Stroke along a quadratic Bézier curve with the control point bend."""
    points = []
    for t in (k / 7 for k in range(8)):
        x = (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * bend[0] + t * t * end[0]
        y = (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * bend[1] + t * t * end[1]
        points.append((x, y))
    return Shape(tuple(points), width, closed=False)


def shade(colour: Rgb, factor: float) -> Rgb:
    """Colour made darker (`factor` < 1) or mixed with white (`factor` > 1; 2 is white)."""
    if factor <= 1:
        return (round(colour[0] * factor), round(colour[1] * factor), round(colour[2] * factor))
    return mix(colour, (255, 255, 255), factor - 1)


def mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    """Blend of two colours: `share` (0 to 1) of the second, the rest of the first."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return (r, g, b)


@dataclass(frozen=True)
class Frame:
    """Placement of a figure on the canvas: its own (0, 0), between the feet, at `origin`, enlarged by `scale`."""

    origin: Point = (0.0, 0.0)
    scale: float = 1.0

    def to_canvas(self, shape: Shape) -> Shape:
        """Shape in picture units of the canvas."""
        left, top = self.origin
        points = tuple((left + x * self.scale, top + y * self.scale) for x, y in shape.points)
        return replace(shape, points=points, width=shape.width * self.scale)


class Canvas:
    """Picture that is being drawn; arguments are in picture units, the image is `OVERSAMPLE` times as large."""

    def __init__(self, background: Rgb = (255, 255, 255)) -> None:
        """Start with one flat colour."""
        self.image = Image.new("RGB", (SIDE * OVERSAMPLE, SIDE * OVERSAMPLE), background)
        self._draw = ImageDraw.Draw(self.image)

    def fill(self, colour: Rgb, *shapes: Shape, frame: Frame | None = None) -> None:
        """Paint shapes in one colour. frame: where they lie; None: they are in canvas coordinates already."""
        for shape in shapes:
            placed = shape
            if frame:
                placed = frame.to_canvas(shape)
            _paint(self._draw, placed, colour, 0.0)

    def fill_outlined(self, colour: Rgb, shapes: Sequence[Shape], frame: Frame, line: float = 0.9) -> None:
        """Paint shapes as one body: a dark rim of `line` units around their union, the colour inside."""
        placed = [frame.to_canvas(shape) for shape in shapes]
        rim = mix(shade(colour, 0.3), (30, 20, 30), 0.5)
        # all rims before all fills: the rims between the shapes disappear
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
        # through a mask of their own: painted at once, marks would reach beyond the shapes
        both = Image.new("L", self.image.size, 0)
        both.paste(inside, mask=window)
        self.image.paste(colour, mask=both)

    def gradient(self, top: Rgb, bottom: Rgb, start: float, end: float) -> None:
        """Fill the rows from `start` to `end` with a vertical blend from the colour top to the colour bottom."""
        rows = range(round(start * OVERSAMPLE), round(end * OVERSAMPLE))
        for row in rows:
            share = (row - rows.start) / max(len(rows) - 1, 1)
            self._draw.line([(0, row), (self.image.width, row)], fill=mix(top, bottom, share))

    def to_image(self) -> Image.Image:
        """Finished picture, 64×64 RGB; each pixel is the mean of 3×3 drawn ones."""
        return self.image.reduce(OVERSAMPLE)


def _paint(draw: ImageDraw.ImageDraw, shape: Shape, colour: Rgb | int, grow: float) -> None:
    """Paint a shape, enlarged by `grow` units on every side."""
    points = [(x * OVERSAMPLE, y * OVERSAMPLE) for x, y in shape.points]
    if shape.closed:
        draw.polygon(points, fill=colour)
        if grow:
            draw.line([*points, points[0]], fill=colour, width=round(2 * grow * OVERSAMPLE), joint="curve")
        return
    width = (shape.width + 2 * grow) * OVERSAMPLE
    draw.line(points, fill=colour, width=round(width), joint="curve")
    # Pillow rounds the joints of a line, but not its ends
    for x, y in (points[0], points[-1]):
        draw.ellipse([x - width / 2, y - width / 2, x + width / 2, y + width / 2], fill=colour)
