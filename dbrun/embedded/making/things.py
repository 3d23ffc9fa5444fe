"""Drawings of the things: a car, a house and a tree; later shapes cover earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from dbrun.embedded.making.brush import Canvas, Frame, Rgb, limb, mix, oval, polygon, shade

GLASS: Rgb = (185, 225, 245)
TYRE: Rgb = (40, 38, 44)


def _car(canvas: Canvas, colour: Rgb, frame: Frame, rng: Random) -> None:
    # a car has one shape
    del rng
    cabin = polygon((-14, -13), (-9, -23.5), (7, -23.5), (13, -13))
    hull = polygon((-22, -5), (-22, -12), (-19, -14.5), (18, -14), (22.5, -11), (23, -5))
    canvas.fill_outlined(colour, [cabin, hull], frame)
    canvas.fill(GLASS, polygon((-11, -14.2), (-7.6, -21.4), (-2.2, -21.4), (-2.2, -14.2)), frame=frame)
    canvas.fill(GLASS, polygon((0.2, -14.2), (0.2, -21.4), (5.8, -21.4), (10, -14.2)), frame=frame)
    # bumper line, head lamp, tail lamp
    canvas.fill(shade(colour, 0.7), limb((-21, -7.5), (21.5, -7.5), width=1.6), frame=frame)
    canvas.fill((255, 240, 140), oval((21, -10.2), 1.9, 1.9), frame=frame)
    canvas.fill((225, 50, 50), oval((-21, -10.2), 1.5, 1.9), frame=frame)
    for x in (-12.5, 12.5):
        canvas.fill(TYRE, oval((x, -5), 5.4, 5.4), frame=frame)
        canvas.fill((205, 205, 212), oval((x, -5), 2.5, 2.5), frame=frame)


def _house(canvas: Canvas, colour: Rgb, frame: Frame, rng: Random) -> None:
    # the colour word names the walls; the roof's colour is random, so that it is not learned with the word
    roof = rng.choice([(150, 65, 50), (95, 75, 80), (110, 70, 45)])
    canvas.fill_outlined(shade(roof, 0.8), [polygon((8, -36), (8, -29), (13, -26), (13, -36))], frame)
    canvas.fill_outlined(colour, [polygon((-16, 0), (-16, -20), (16, -20), (16, 0))], frame)
    canvas.fill_outlined(roof, [polygon((-20.5, -19), (0, -37), (20.5, -19))], frame)
    canvas.fill_outlined(shade(roof, 0.7), [polygon((-3.5, 0), (-3.5, -11.5), (3.5, -11.5), (3.5, 0))], frame, line=0.6)
    # door knob, windows
    canvas.fill((255, 225, 90), oval((1.9, -5.6), 0.9, 0.9), frame=frame)
    for x in (-10.2, 10.2):
        pane = polygon((x - 3.4, -8), (x - 3.4, -14.8), (x + 3.4, -14.8), (x + 3.4, -8))
        canvas.fill_outlined((250, 250, 250), [pane], frame, line=0.7)
        canvas.fill(GLASS, polygon((x - 2.5, -8.9), (x - 2.5, -13.9), (x + 2.5, -13.9), (x + 2.5, -8.9)), frame=frame)


def _tree(canvas: Canvas, colour: Rgb, frame: Frame, rng: Random) -> None:
    canvas.fill_outlined((120, 80, 50), [polygon((-3.4, 0), (-2.4, -17), (2.4, -17), (3.4, 0))], frame)
    turn = rng.uniform(-1.5, 1.5)
    crown = [
        oval((0, -28), 11, 10),
        oval((-9 + turn, -22), 8.4, 7.4),
        oval((9 + turn, -22), 8.4, 7.4),
        oval((turn, -35), 8, 7),
    ]
    canvas.fill_outlined(colour, crown, frame)
    # highlights in the crown, a shadow below it
    light = mix(colour, (255, 255, 235), 0.35)
    canvas.fill(
        light,
        oval((-4 + turn, -33), 4, 3),
        oval((8 + turn, -25), 3.4, 2.6),
        oval((-10 + turn, -23), 3, 2.2),
        frame=frame,
    )
    canvas.fill(shade(colour, 0.75), oval((1, -19.5), 7, 2.2), frame=frame)


THINGS: Mapping[str, Callable[[Canvas, Rgb, Frame, Random], None]] = {
    "car": _car,
    "house": _house,
    "tree": _tree,
}
"""Drawing function of each thing."""
