"""Drawings of the ten places behind the subject.

Each function paints from back to front. The order of its random draws decides the picture, and the published weights
were trained on these pictures: a draw that is added, removed or moved changes the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from dbrun.embedded.making.brush import SIDE, Canvas, Point, Rgb, limb, mix, oval, polygon, shade

HORIZON = 42.0
"""Upper edge of the ground in picture units from the top; each place moves it a little."""


def _sun(canvas: Canvas, rng: Random, colour: Rgb) -> None:
    # near the edges: in the middle the subject would cover it
    canvas.fill(colour, oval((rng.choice([8, 12, 52, 56]), rng.uniform(7, 12)), 5, 5))


def _cloud(canvas: Canvas, rng: Random, colour: Rgb = (250, 252, 255)) -> None:
    x, y = rng.uniform(6, 58), rng.uniform(5, 14)
    canvas.fill(colour, oval((x, y), 7, 2.6), oval((x - 3, y - 2), 3.5, 2.6), oval((x + 2, y - 2.5), 4, 3))


def _ground(canvas: Canvas, top: Rgb, bottom: Rgb, horizon: float) -> None:
    canvas.gradient(top, bottom, horizon, SIDE)


def _scatter(rng: Random, count: int, top: float, bottom: float) -> list[Point]:
    """Random points between two heights."""
    return [(rng.uniform(2, SIDE - 2), rng.uniform(top, bottom)) for _ in range(count)]


def _grass(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-3, 2)
    canvas.gradient((120, 190, 245), (205, 232, 250), 0, horizon)
    if rng.random() < 0.5:
        _sun(canvas, rng, (255, 225, 90))
    _cloud(canvas, rng)
    canvas.fill((120, 195, 90), oval((rng.uniform(5, 59), horizon + 4), 30, 9))
    _ground(canvas, (110, 190, 80), (80, 160, 60), horizon)
    # blades and flowers
    for x, y in _scatter(rng, 9, horizon + 4, 62):
        canvas.fill((60, 135, 50), limb((x, y), (x + rng.uniform(-1, 1), y - 3.5), width=1.1))
    for x, y in _scatter(rng, rng.randint(0, 4), horizon + 5, 61):
        canvas.fill(rng.choice([(255, 250, 250), (255, 220, 80), (250, 140, 180)]), oval((x, y), 1.5, 1.5))


def _beach(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-2, 3)
    sea = horizon - rng.uniform(12, 15)
    canvas.gradient((130, 205, 250), (215, 240, 252), 0, sea)
    _sun(canvas, rng, (255, 235, 120))
    canvas.gradient((35, 130, 205), (75, 190, 220), sea, horizon)
    for x, y in _scatter(rng, 4, sea + 3, horizon - 3):
        canvas.fill((150, 220, 240), limb((x - 3, y), (x + 3, y), width=1.0))
    _ground(canvas, (250, 225, 160), (240, 205, 130), horizon)
    # the surf, where sea and sand meet
    surf = limb((0, horizon), (20, horizon + 1), (42, horizon - 0.5), (64, horizon + 0.5), width=2)
    canvas.fill((245, 252, 255), surf)
    for x, y in _scatter(rng, 5, horizon + 6, 62):
        canvas.fill((220, 180, 110), oval((x, y), 1.2, 0.8))


def _snow(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-4, 2)
    canvas.gradient((165, 190, 215), (215, 228, 240), 0, horizon)
    for x in map(float, rng.sample(range(4, 62, 8), 3)):
        # a fir with snow on its upper half
        height = rng.uniform(9, 15)
        middle, top = horizon - height / 2, horizon - height
        canvas.fill((75, 120, 110), polygon((x - 5, horizon + 2), (x + 5, horizon + 2), (x, top)))
        canvas.fill((240, 247, 252), polygon((x - 2.5, middle), (x + 2.5, middle), (x, top)))
    _ground(canvas, (235, 242, 250), (250, 252, 255), horizon)
    canvas.fill((238, 244, 251), oval((rng.uniform(10, 54), horizon + 3), 22, 5))
    for x, y in _scatter(rng, 16, 2, 60):
        canvas.fill((255, 255, 255), oval((x, y), 1.1, 1.1))


def _desert(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-3, 2)
    canvas.gradient((250, 180, 105), (255, 222, 160), 0, horizon)
    _sun(canvas, rng, (255, 245, 200))
    canvas.fill(
        (225, 140, 75),
        oval((rng.uniform(0, 25), horizon + 5), 26, 12),
        oval((rng.uniform(40, 64), horizon + 6), 24, 11),
    )
    _ground(canvas, (232, 155, 85), (215, 130, 65), horizon)
    # cacti at the sides, where the subject does not cover them
    for x in rng.sample([5, 10, 54, 59], rng.randint(1, 2)):
        y = horizon + rng.uniform(1, 5)
        canvas.fill((70, 130, 70), limb((x, y), (x, y - 15), width=3.4))
        canvas.fill((70, 130, 70), limb((x, y - 6), (x + 4, y - 7), (x + 4, y - 11), width=2.2))
        canvas.fill((70, 130, 70), limb((x, y - 4), (x - 4, y - 5), (x - 4, y - 9), width=2.2))


def _forest(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-2, 3)
    canvas.gradient((30, 75, 50), (70, 120, 75), 0, horizon)
    # trunks, then the leaves above them
    for x in map(float, sorted(rng.sample(range(2, 64, 7), 6))):
        trunk = mix((75, 50, 35), (95, 65, 45), rng.random())
        canvas.fill(trunk, limb((x, -2), (x + rng.uniform(-1, 1), horizon + 2), width=rng.uniform(3, 4.5)))
    for x in map(float, range(-2, 70, 9)):
        canvas.fill((25, rng.randint(85, 105), 50), oval((x + rng.uniform(-2, 2), rng.uniform(0, 4)), 8, 7))
    _ground(canvas, (60, 95, 45), (45, 75, 35), horizon)
    for x, y in _scatter(rng, 7, horizon + 3, 62):
        canvas.fill((85, 130, 60), limb((x - 1.5, y - 2), (x, y), (x + 1.5, y - 2), width=1))


def _city(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-1, 3)
    canvas.gradient((160, 185, 215), (220, 225, 230), 0, horizon)
    x = rng.uniform(-6, 0)
    while x < SIDE:
        width, height = rng.uniform(10, 15), rng.uniform(18, 36)
        wall = rng.choice([(120, 125, 145), (150, 130, 125), (105, 120, 135), (140, 145, 155)])
        roof, right = horizon - height, x + width
        canvas.fill(wall, polygon((x, horizon), (x, roof), (right, roof), (right, horizon)))
        for row in range(int(height // 6)):
            for column in (0.28, 0.72):
                _window(canvas, rng, (x + width * column, roof + 4 + 6 * row))
        # a gap of half a unit keeps the houses apart
        x += width + 0.6
    # road, pavement and the middle line
    _ground(canvas, (130, 130, 135), (95, 95, 102), horizon + 3)
    canvas.fill((185, 185, 185), polygon((0, horizon), (64, horizon), (64, horizon + 3.5), (0, horizon + 3.5)))
    for x in range(-2, 66, 16):
        canvas.fill((240, 240, 235), limb((x, 60.5), (x + 7, 60.5), width=1.6))


def _window(canvas: Canvas, rng: Random, centre: Point) -> None:
    x, y = centre
    colour = rng.choice([(250, 230, 140), (200, 220, 240)])
    pane = polygon((x - 1.4, y - 1.5), (x + 1.4, y - 1.5), (x + 1.4, y + 1.5), (x - 1.4, y + 1.5))
    canvas.fill(colour, pane)


def _room(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(0, 4)
    wall = rng.choice([(245, 225, 195), (235, 215, 220), (250, 235, 200)])
    canvas.gradient(shade(wall, 1.2), wall, 0, horizon)
    # a window: frame, glass, bars
    x = rng.choice([10.0, 54.0])
    canvas.fill((255, 255, 255), polygon((x - 8, 6), (x + 8, 6), (x + 8, 24), (x - 8, 24)))
    canvas.fill((150, 210, 245), polygon((x - 6, 8), (x + 6, 8), (x + 6, 22), (x - 6, 22)))
    canvas.fill((255, 255, 255), limb((x, 7), (x, 23), width=1.5), limb((x - 7, 15), (x + 7, 15), width=1.5))
    _ground(canvas, (190, 135, 85), (165, 110, 65), horizon)
    canvas.fill((250, 245, 235), limb((0, horizon), (64, horizon), width=2))
    rug = rng.choice([(200, 85, 80), (95, 130, 175), (120, 150, 110)])
    canvas.fill(rug, oval((32, 57), rng.uniform(24, 28), 5.5))
    canvas.fill(shade(rug, 1.3), oval((32, 57), 19, 3.6))


def _under_water(canvas: Canvas, rng: Random) -> None:
    canvas.gradient((70, 190, 225), (15, 80, 155), 0, SIDE)
    # rays of light
    for x in map(float, rng.sample(range(4, 62, 6), 3)):
        canvas.fill((95, 205, 232), polygon((x, 0), (x + 5, 0), (x - 2, 22), (x - 9, 22)))
    floor = 57 + rng.uniform(-2, 1)
    canvas.fill((205, 190, 140), oval((20, floor + 8), 34, 10), oval((50, floor + 9), 30, 10))
    for x in rng.sample([3.0, 8.0, 55.0, 60.0], 3):
        # seaweed: a stem that sways left and right in turn
        sway = rng.uniform(1, 3)
        stem = [(x - sway * (-1) ** k, 62 - 5 * k) for k in range(rng.randint(4, 6))]
        canvas.fill(rng.choice([(40, 140, 85), (60, 160, 70)]), limb(*stem, width=2.4))
    # bubbles: a light ring around the colour of the water
    for x, y in _scatter(rng, 7, 3, 50):
        radius = rng.uniform(1.1, 2.2)
        canvas.fill((190, 235, 250), oval((x, y), radius, radius))
        canvas.fill((100, 195, 230), oval((x, y), radius - 0.7, radius - 0.7))


def _stars(canvas: Canvas, rng: Random, count: int, bottom: float) -> None:
    for x, y in _scatter(rng, count, 2, bottom):
        radius = rng.uniform(0.6, 1.1)
        canvas.fill((250, 248, 215), oval((x, y), radius, radius))


def _night(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-2, 2)
    sky = (18, 24, 70)
    canvas.gradient(sky, (55, 60, 125), 0, horizon)
    _stars(canvas, rng, 14, horizon - 6)
    x, y = rng.choice([9.0, 13.0, 51.0, 55.0]), rng.uniform(8, 12)
    # a crescent: the moon, partly covered by a disc in the sky's colour at that height
    canvas.fill((250, 240, 190), oval((x, y), 6, 6))
    canvas.fill(mix(sky, (55, 60, 125), y / horizon), oval((x + 3, y - 1.5), 5, 5))
    canvas.fill((30, 50, 80), oval((rng.uniform(5, 59), horizon + 4), 28, 9))
    _ground(canvas, (30, 60, 70), (20, 42, 55), horizon)


def _moon(canvas: Canvas, rng: Random) -> None:
    horizon = HORIZON + rng.uniform(-3, 2)
    canvas.gradient((5, 5, 14), (16, 14, 30), 0, horizon)
    _stars(canvas, rng, 16, horizon - 2)
    x, y = rng.choice([10.0, 54.0]), rng.uniform(9, 13)
    # the Earth: sea, land, ice
    canvas.fill((50, 120, 220), oval((x, y), 6, 6))
    canvas.fill((85, 175, 100), oval((x - 2, y - 1), 2.6, 2), oval((x + 2, y + 2.5), 2.2, 1.6))
    canvas.fill((240, 245, 250), oval((x, y - 4.8), 2.8, 1))
    _ground(canvas, (185, 185, 190), (145, 145, 152), horizon)
    # craters: a dark ellipse, a lighter one a little lower
    for x, y in _scatter(rng, 5, horizon + 4, 61):
        radius = rng.uniform(2.5, 5)
        canvas.fill((120, 120, 128), oval((x, y), radius, radius * 0.4))
        canvas.fill((160, 160, 166), oval((x, y + 0.5), radius * 0.8, radius * 0.26))


PLACES: Mapping[str, Callable[[Canvas, Random], None]] = {
    "on the grass": _grass,
    "on the beach": _beach,
    "in the snow": _snow,
    "in the desert": _desert,
    "in the forest": _forest,
    "in the city": _city,
    "in a room": _room,
    "under water": _under_water,
    "at night": _night,
    "on the moon": _moon,
}
"""Drawing function of each place, by its usual words in a caption."""
