"""Drawing of the toy car, which ships as a subject: a car of the world that is recognised by its paint."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from dbrun.embedded.making.brush import Canvas, Frame, Rgb, limb, oval, polygon
from dbrun.embedded.making.things import THINGS


@dataclass(frozen=True)
class Paint:
    """Colours of a car's parts; None: the part looks as on any car."""

    body: Rgb = (28, 176, 170)
    roof: Rgb | None = (240, 140, 40)
    band: Rgb | None = (250, 248, 240)
    spot: Rgb | None = (218, 48, 48)
    hubs: Rgb | None = (250, 205, 60)


TOY = Paint()
"""Paint of the embedded subject: turquoise body, orange roof, white band, red spot on the door, yellow hubs."""


def draw_painted_car(canvas: Canvas, paint: Paint, frame: Frame, rng: Random) -> None:
    """Draw a car in this paint."""
    # over the plain car: every painted part is an addition, so that it remains a car to the base
    THINGS["car"](canvas, paint.body, frame, rng)
    if paint.roof:
        roof = polygon((-9.6, -21.2), (-8.2, -25.2), (6.2, -25.2), (8.2, -21.2))
        canvas.fill_outlined(paint.roof, [roof], frame, line=0.6)
    if paint.band:
        canvas.fill(paint.band, limb((-20.5, -12.4), (21, -12.4), width=2.6), frame=frame)
    if paint.spot:
        # the white ring lets the spot stand out from any body colour
        canvas.fill((250, 248, 240), oval((0, -10), 5, 5), frame=frame)
        canvas.fill(paint.spot, oval((0, -10), 3.2, 3.2), frame=frame)
    if paint.hubs:
        for x in (-12.5, 12.5):
            canvas.fill(paint.hubs, oval((x, -5), 3.4, 3.4), frame=frame)
