"""Drawings of animals: all face right, with a big head, clear limbs and marks at least 3 pixels wide.

Lengths are picture units (pixels of the finished picture) in the figure's own frame: feet at y = 0, x to the right,
y downwards. Later shapes cover earlier ones, so the order of the calls is the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal

from dbrun.embedded.making.brush import Canvas, Frame, Point, Rgb, Shape, curve, limb, mix, oval, polygon, shade

Pattern = Literal["plain", "spotted", "striped", "patched"]
Pose = Literal["standing", "sitting", "running", "lying", "flying", "swimming"]
INK: Rgb = (28, 20, 26)
"""Colour of eyes, noses and the darkest marks."""


@dataclass(frozen=True)
class Look:
    """Colours and pattern of one animal; None: the animal has no such part, or it has the coat's colour."""

    coat: Rgb
    pattern: Pattern = "plain"
    marks: Rgb = INK
    ears: Rgb | None = None
    eye_patch: Rgb | None = None
    saddle: Rgb | None = None
    tail_tip: Rgb | None = None
    collar: Rgb | None = None
    hat: Rgb | None = None


@dataclass(frozen=True)
class Bones:
    """Positions of a four-legged animal's parts in one pose. far_legs: the pair behind the trunk."""

    trunk: tuple[Shape, ...]
    legs: tuple[Shape, ...]
    far_legs: tuple[Shape, ...]
    head: Point
    neck: Point
    tail: Point
    saddle: Point


def _standing() -> Bones:
    return Bones(
        trunk=(oval((-4, -14), 13.5, 8), oval((4, -17), 7.5, 8)),
        legs=(limb((-12, -11), (-12, -2), width=5.4), limb((5, -11), (5, -2), width=5.4)),
        far_legs=(limb((-6.5, -10), (-6.5, -2.5), width=5), limb((10, -11), (10, -2.5), width=5)),
        head=(11, -26),
        neck=(7.5, -18.5),
        tail=(-16, -17),
        saddle=(-7, -19),
    )


def _sitting() -> Bones:
    return Bones(
        trunk=(oval((-4, -13), 8.5, 12.5, 24), oval((-8, -7.5), 9, 7.5)),
        legs=(limb((2, -15), (4, -2), width=5.4), limb((-8, -2.2), (-3, -2.2), width=4.6)),
        far_legs=(limb((6, -15), (9, -2.5), width=5),),
        head=(6, -30),
        neck=(3, -22),
        tail=(-15, -5),
        saddle=(-9, -16),
    )


def _running() -> Bones:
    return Bones(
        trunk=(oval((-4, -17), 14, 7.5, -4), oval((5, -19), 7.5, 7.5)),
        legs=(limb((-12, -14), (-18, -8), (-22, -9), width=5), limb((6, -15), (14, -10), (18, -10), width=5)),
        far_legs=(
            limb((-8, -13), (-13, -5), (-17, -4), width=4.6),
            limb((3, -14), (9, -6), (13, -5), width=4.6),
        ),
        head=(12, -29),
        neck=(8.5, -21.5),
        tail=(-16.5, -20),
        saddle=(-7, -22),
    )


def _lying() -> Bones:
    return Bones(
        trunk=(oval((-5, -8.5), 15.5, 8), oval((-12, -8), 8.5, 7.5)),
        legs=(limb((5, -4), (17, -2.4), width=4.8), limb((-14, -2.4), (-6, -2.4), width=4.8)),
        far_legs=(limb((8, -5), (19, -5), width=4.4),),
        head=(10, -19),
        neck=(6, -11.5),
        tail=(-19, -6),
        saddle=(-9, -13.5),
    )


_BONES: Mapping[Pose, Callable[[], Bones]] = {
    "standing": _standing,
    "sitting": _sitting,
    "running": _running,
    "lying": _lying,
}


def _draw_eye(canvas: Canvas, at: Point, frame: Frame, coat: Rgb, radius: float = 2.1, iris: Rgb = INK) -> None:
    # a dark eye needs a light rim to be seen on a dark coat
    if sum(coat) < 330:
        canvas.fill(mix(coat, (255, 250, 240), 0.6), oval(at, radius + 0.9, radius * 1.15 + 0.9), frame=frame)
    canvas.fill(INK, oval(at, radius, radius * 1.15), frame=frame)
    if iris != INK:
        canvas.fill(iris, oval(at, radius * 0.95, radius * 1.1), frame=frame)
        canvas.fill(INK, oval((at[0] + 0.3, at[1]), radius * 0.5, radius * 1.0), frame=frame)
    canvas.fill((255, 255, 255), oval((at[0] + 0.6, at[1] - 0.8), 0.85, 0.85), frame=frame)


def _draw_markings(canvas: Canvas, look: Look, mask: tuple[Shape, ...], middle: Point, frame: Frame,
                   rng: Random) -> None:
    """Draw spots, stripes or patches in the second colour, inside the shapes of mask only."""
    x, y = middle
    # the order of the random draws decides every picture, and the published weights were trained on these pictures
    marks: list[Shape] = []
    if look.pattern == "spotted":
        spread = [(-9, 1), (-4, -3), (1, 2), (-4, 5), (6, -3), (-13, 4), (10, 3), (5, 6)]
        marks = [oval((x + dx + rng.uniform(-1, 1), y + dy + rng.uniform(-1, 1)), 1.9, 1.9) for dx, dy in spread]
    elif look.pattern == "striped":
        shift = rng.uniform(-1, 1)
        marks = [limb((x + dx + shift, y - 14), (x + dx + shift - 2, y + 14), width=2.7) for dx in range(-16, 22, 6)]
    elif look.pattern == "patched":
        marks = [oval((x - 6 + rng.uniform(-1, 1), y - 2), 7, 6.5), oval((x + 8, y + 4), 4, 4)]
    canvas.fill_masked(mask, look.marks, marks, frame)


def _draw_collar(canvas: Canvas, colour: Rgb | None, neck: Point, frame: Frame) -> None:
    if colour is None:
        return
    x, y = neck
    # the band, then its bell
    band = limb((x - 6.3, y - 2.4), (x - 1, y + 1.6), (x + 4.6, y + 2.2), width=3.4)
    canvas.fill_outlined(colour, [band], frame, line=0.5)
    canvas.fill((255, 225, 90), oval((x + 3.2, y + 4.6), 1.9, 1.9), frame=frame)


def _draw_hat(canvas: Canvas, colour: Rgb | None, crown: Point, frame: Frame, brim: float = 7.5) -> None:
    if colour is None:
        return
    x, y = crown
    top = polygon((x - 4.8, y), (x - 4.2, y - 7.5), (x + 4.2, y - 7.5), (x + 4.8, y))
    canvas.fill_outlined(colour, [top, limb((x - brim, y), (x + brim, y), width=2.6)], frame)
    canvas.fill(shade(colour, 1.65), limb((x - 4.2, y - 2.4), (x + 4.2, y - 2.4), width=1.7), frame=frame)


def _dog_head(canvas: Canvas, look: Look, at: Point, frame: Frame) -> None:
    x, y = at
    ears = look.ears or shade(look.coat, 0.62)
    # the far ear lies behind the head; the near one is drawn last
    canvas.fill_outlined(ears, [oval((x + 5, y - 7), 3, 4.6, 30)], frame)
    canvas.fill_outlined(look.coat, [oval((x, y), 9.4, 8.8), oval((x + 8, y + 3), 6.2, 4.6)], frame)
    if look.eye_patch:
        canvas.fill_masked([oval((x, y), 9.2, 8.6)], look.eye_patch, [oval((x + 2.4, y - 2.4), 5.2, 5.6)], frame)
    # muzzle, nose, mouth
    canvas.fill(mix(look.coat, (255, 250, 240), 0.55), oval((x + 9, y + 3.6), 4.6, 3.4), frame=frame)
    canvas.fill(INK, oval((x + 13, y + 0.9), 2.3, 1.9), frame=frame)
    smile = limb((x + 5, y + 3.8), (x + 7.6, y + 5.8), (x + 11.4, y + 5), width=0.9)
    canvas.fill(shade(look.coat, 0.35), smile, frame=frame)
    _draw_eye(canvas, (x + 3.6, y - 1.8), frame, look.eye_patch or look.coat)
    canvas.fill_outlined(ears, [oval((x - 6, y + 0.2), 4, 8, 14)], frame)


def _cat_head(canvas: Canvas, look: Look, at: Point, frame: Frame) -> None:
    x, y = at
    for side in (-1, 1):
        outer = polygon((x + 9 * side, y - 3), (x + 7.8 * side, y - 14), (x + 1.6 * side, y - 6.5))
        canvas.fill_outlined(look.coat, [outer], frame)
        inner = polygon((x + 7.4 * side, y - 6), (x + 7 * side, y - 11), (x + 4 * side, y - 7))
        canvas.fill((245, 160, 165), inner, frame=frame)
    canvas.fill_outlined(look.coat, [oval((x, y), 9.8, 8.2)], frame)
    canvas.fill(mix(look.coat, (255, 250, 240), 0.55), oval((x + 5, y + 3.8), 4.4, 3.0), frame=frame)
    # white as the coat: a cat's green eye needs no rim
    for eye in (x + 0.2, x + 7):
        _draw_eye(canvas, (eye, y - 0.8), frame, (255, 255, 255), 2.0, (150, 205, 70))
    canvas.fill((235, 110, 125), polygon((x + 3.4, y + 1.9), (x + 6.6, y + 1.9), (x + 5, y + 3.8)), frame=frame)
    # light whiskers on a dark coat, dark ones on a light coat
    whisker = shade(look.coat, 0.4)
    if sum(look.coat) < 360:
        whisker = mix(look.coat, (255, 255, 255), 0.7)
    for start, end in (((x - 5, y + 3), (x - 10.5, y + 2)), ((x - 5, y + 4.6), (x - 10, y + 5.6))):
        canvas.fill(whisker, limb(start, end, width=0.7), frame=frame)


def _rabbit_head(canvas: Canvas, look: Look, at: Point, frame: Frame) -> None:
    x, y = at
    # long ears tell a rabbit from a cat at this size
    for root, lean in ((x + 1.5, 16.0), (x - 4.0, -6.0)):
        tip = root + lean * 0.18
        canvas.fill_outlined(look.coat, [oval((tip, y - 14), 3.2, 9, lean)], frame)
        canvas.fill((245, 170, 178), oval((tip, y - 14), 1.5, 6.2, lean), frame=frame)
    canvas.fill_outlined(look.coat, [oval((x, y), 8.6, 7.8), oval((x + 4.4, y + 2.6), 5.2, 4.4)], frame)
    canvas.fill(mix(look.coat, (255, 250, 245), 0.55), oval((x + 5.6, y + 3.6), 3.6, 2.8), frame=frame)
    canvas.fill((240, 120, 140), oval((x + 8.6, y + 1), 1.6, 1.3), frame=frame)
    canvas.fill((250, 165, 165), oval((x + 0.4, y + 4), 1.9, 1.4), frame=frame)
    _draw_eye(canvas, (x + 2.8, y - 1.6), frame, look.coat)


def _tail(canvas: Canvas, species: str, look: Look, at: Point, frame: Frame) -> None:
    x, y = at
    if species == "rabbit":
        canvas.fill_outlined(mix(look.coat, (255, 255, 255), 0.6), [oval((x - 1, y), 4.2, 4.2)], frame)
        return
    if species == "dog":
        stroke, tip = curve((x + 2, y), (x - 6, y - 2), (x - 6, y - 10), 4.2), (x - 6, y - 10)
    else:
        stroke, tip = curve((x + 2, y + 2), (x - 12, y + 2), (x - 6, y - 16), 3.6), (x - 6, y - 16)
    canvas.fill_outlined(look.coat, [stroke], frame)
    if look.tail_tip:
        canvas.fill(look.tail_tip, oval(tip, 2.3, 3.6), frame=frame)


_HEADS: Mapping[str, Callable[[Canvas, Look, Point, Frame], None]] = {
    "dog": _dog_head,
    "cat": _cat_head,
    "rabbit": _rabbit_head,
}
_CROWNS: Mapping[str, tuple[Point, float]] = {
    "dog": ((-0.5, -8.4), 7.5),
    "cat": ((0.6, -8.4), 4.6),
    "rabbit": ((1.4, -7.2), 6.4),
}
"""Species → (offset of the hat from the middle of the head, half the width of the brim between the ears)."""


def _four_legged(species: str) -> Callable[[Canvas, Look, Pose, Frame, Random], None]:
    """Drawing function of a four-legged species; trunk and legs are shared, head, tail and hat are its own."""
    def draw(canvas: Canvas, look: Look, pose: Pose, frame: Frame, rng: Random) -> None:
        bones = _BONES[pose]()
        # behind the trunk
        canvas.fill_outlined(shade(look.coat, 0.72), bones.far_legs, frame)
        _tail(canvas, species, look, bones.tail, frame)
        # one outline around trunk and near legs, so that no line cuts the body
        canvas.fill_outlined(look.coat, bones.trunk + bones.legs, frame)
        x, y = bones.saddle
        _draw_markings(canvas, look, bones.trunk, (x + 4, y + 5), frame, rng)
        if look.saddle:
            canvas.fill_masked(bones.trunk, look.saddle, [oval((x, y + 2), 8.5, 7)], frame)
        paws = (limb(leg.points[-1], leg.points[-1], width=3.6) for leg in bones.legs)
        canvas.fill(mix(look.coat, (255, 250, 240), 0.5), *paws, frame=frame)
        # in front of the trunk
        _draw_collar(canvas, look.collar, bones.neck, frame)
        _HEADS[species](canvas, look, bones.head, frame)
        (dx, dy), brim = _CROWNS[species]
        _draw_hat(canvas, look.hat, (bones.head[0] + dx, bones.head[1] + dy), frame, brim)

    return draw


def _bird(canvas: Canvas, look: Look, pose: Pose, frame: Frame, rng: Random) -> None:
    is_flying = pose == "flying"
    aloft = 0.0
    if is_flying:
        aloft = -12.0
    body = (oval((-2, -14 + aloft), 12, 9, -14), oval((8, -22 + aloft), 7.6, 7.2))
    wing = shade(look.coat, 0.68)
    # the far wing, or the feet
    if is_flying:
        canvas.fill_outlined(shade(wing, 0.85), [polygon((0, -20 + aloft), (2, -36 + aloft), (8, -22 + aloft))], frame)
    else:
        for foot in (-3.0, 3.0):
            canvas.fill((235, 150, 40), limb((foot, -8), (foot, -1), (foot + 3.5, -1), width=1.9), frame=frame)
    # tail, beak, body
    tail = polygon((-11, -12 + aloft), (-24, -14 + aloft), (-22, -7 + aloft), (-10, -8 + aloft))
    canvas.fill_outlined(wing, [tail], frame)
    canvas.fill_outlined((250, 165, 40), [polygon((14, -24.5 + aloft), (21, -21 + aloft), (14, -18.5 + aloft))], frame)
    canvas.fill_outlined(look.coat, body, frame)
    canvas.fill(mix(look.coat, (255, 250, 235), 0.5), oval((3, -9.5 + aloft), 6, 3.6, -20), frame=frame)
    _draw_markings(canvas, look, body[:1], (-1, -14 + aloft), frame, rng)
    # the near wing, spread or folded
    if is_flying:
        near_wing = polygon((-8, -17 + aloft), (-16, -34 + aloft), (-5, -31 + aloft), (4, -16 + aloft))
        canvas.fill_outlined(wing, [near_wing], frame)
    else:
        canvas.fill_outlined(wing, [oval((-5, -14), 7.6, 4.8, -24)], frame)
    _draw_eye(canvas, (10.4, -23.6 + aloft), frame, look.coat, 2.0)
    _draw_hat(canvas, look.hat, (8, -28.6 + aloft), frame)


def _fish(canvas: Canvas, look: Look, pose: Pose, frame: Frame, rng: Random) -> None:
    # a fish only swims
    del pose
    # tail, back and belly fins lie behind the body
    fin = shade(look.coat, 0.68)
    body = (oval((1, -22), 15.5, 10.5),)
    canvas.fill_outlined(fin, [polygon((-11, -22), (-23, -32), (-20, -22), (-23, -12))], frame)
    canvas.fill_outlined(fin, [polygon((-7, -29), (-2, -38), (8, -36), (7, -29))], frame)
    canvas.fill_outlined(fin, [polygon((-3, -14), (-6, -7), (4, -8), (5, -14))], frame)
    canvas.fill_outlined(look.coat, body, frame)
    canvas.fill(mix(look.coat, (255, 250, 235), 0.45), oval((2, -15.5), 9, 3), frame=frame)
    _draw_markings(canvas, look, body, (-3, -22), frame, rng)
    # the face covers the marks, so that they hide no eye
    canvas.fill_masked(body, mix(look.coat, (255, 250, 235), 0.3), [oval((15, -20), 8, 9.5)], frame)
    canvas.fill_outlined(fin, [oval((-1, -19.5), 4.6, 2.8, 24)], frame, line=0.6)
    canvas.fill((255, 255, 255), oval((9.2, -24.4), 3.3, 3.5), frame=frame)
    _draw_eye(canvas, (9.9, -24.2), frame, (255, 255, 255), 2.1)
    canvas.fill(shade(look.coat, 0.35), limb((12.4, -18.6), (15.2, -18.9), width=1.1), frame=frame)
    _draw_hat(canvas, look.hat, (5, -31.6), frame)


ANIMALS: Mapping[str, Callable[[Canvas, Look, Pose, Frame, Random], None]] = {
    "dog": _four_legged("dog"),
    "cat": _four_legged("cat"),
    "bird": _bird,
    "fish": _fish,
    "rabbit": _four_legged("rabbit"),
}
"""Drawing function of each animal."""
POSES: Mapping[str, tuple[Pose, ...]] = {
    "dog": ("standing", "sitting", "running", "lying"),
    "cat": ("standing", "sitting", "running", "lying"),
    "bird": ("standing", "flying"),
    "fish": ("swimming",),
    "rabbit": ("standing", "sitting", "running", "lying"),
}
"""Poses of each animal."""
COLLARED = ("dog", "cat", "rabbit")
"""Animals that can wear a collar; every animal can wear a hat."""
