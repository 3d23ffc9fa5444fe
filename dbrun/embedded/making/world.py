"""World of the embedded base model: random scenes of animals and things; equal seeds give equal pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from PIL import Image

from dbrun.embedded.making.animals import ANIMALS, COLLARED, POSES, Look, Pattern, Pose
from dbrun.embedded.making.brush import SIDE, Canvas, Frame, Rgb, mix, oval, shade
from dbrun.embedded.making.places import PLACES
from dbrun.embedded.making.things import THINGS

Size = Literal["small", "medium", "big"]

KINDS: tuple[str, ...] = (*ANIMALS, *THINGS)
"""All classes of the world: animals and things."""
COLOURS: Mapping[str, Rgb] = {
    "red": (218, 48, 48),
    "orange": (240, 140, 40),
    "yellow": (246, 214, 62),
    "green": (66, 170, 76),
    "blue": (52, 104, 216),
    "purple": (140, 74, 188),
    "pink": (246, 142, 184),
    "brown": (140, 88, 52),
    "black": (52, 50, 58),
    "white": (246, 245, 240),
    "gray": (146, 148, 156),
}
"""Colour word → sRGB."""
COAT_COLOURS = ("brown", "black", "white", "gray", "orange")
COAT_COLOUR_SHARE = 0.7
"""Share of the animals with a natural coat colour; the others have any colour."""
COLLAR_COLOURS = ("red", "blue", "yellow", "green", "purple", "pink")
HAT_COLOURS = ("red", "blue", "yellow", "green", "purple", "pink", "black")
SIZE_SCALES: Mapping[Size, float] = {"small": 0.78, "medium": 1.0, "big": 1.13}
KIND_SCALES: Mapping[str, float] = {"dog": 0.97, "rabbit": 0.9, "fish": 1.05}
"""Correction of the size by class, so that long ears and noses stay inside the picture."""
DARK_COLOURS = ("brown", "black", "purple", "blue", "gray", "green", "red")


@dataclass(frozen=True)
class Scene:
    """Attributes of a picture. seed: decides what no word names, such as jitter, clouds and tints."""

    kind: str
    colour: str
    place: str
    pattern: Pattern | None
    pose: Pose | None
    size: Size
    collar: str | None
    hat: str | None
    seed: int


def random_scene(seed: int) -> Scene:
    """Scene of a seed."""
    # the order of the draws is the world: the published weights were trained on these scenes
    rng = Random(f"scene {seed}")
    kind = rng.choice(KINDS)
    place = rng.choice(list(PLACES))
    size: Size = rng.choices(("small", "medium", "big"), (0.2, 0.6, 0.2))[0]
    if kind in THINGS:
        return Scene(kind, rng.choice(list(COLOURS)), place, None, None, size, None, None, seed)
    colours: Sequence[str] = list(COLOURS)
    if rng.random() < COAT_COLOUR_SHARE:
        colours = COAT_COLOURS
    colour = rng.choice(colours)
    pattern: Pattern = rng.choices(("plain", "spotted", "striped", "patched"), (0.55, 0.15, 0.15, 0.15))[0]
    pose = rng.choice(POSES[kind])
    collar = hat = None
    if kind in COLLARED and rng.random() < 0.3:
        collar = rng.choice(COLLAR_COLOURS)
    if rng.random() < 0.18:
        hat = rng.choice(HAT_COLOURS)
    return Scene(kind, colour, place, pattern, pose, size, collar, hat, seed)


def animal_look(scene: Scene, rng: Random) -> Look:
    """Colours of the scene's animal, with a small random tint of the coat."""
    coat = tint(COLOURS[scene.colour], rng)
    # light marks on a dark coat, dark marks on a light one
    marks = shade(coat, 0.45)
    if scene.colour in DARK_COLOURS:
        marks = mix(coat, (250, 246, 238), 0.78)
    collar = hat = None
    if scene.collar:
        collar = COLOURS[scene.collar]
    if scene.hat:
        hat = COLOURS[scene.hat]
    return Look(coat=coat, pattern=scene.pattern or "plain", marks=marks, collar=collar, hat=hat)


def tint(colour: Rgb, rng: Random) -> Rgb:
    """Colour changed by a random amount of at most 9 levels per channel."""
    r, g, b = (min(255, max(0, part + rng.randint(-9, 9))) for part in colour)
    return (r, g, b)


def draw_scene(scene: Scene) -> Image.Image:
    """Draw the scene, 64×64 RGB."""
    # another stream than that of `random_scene`
    rng = Random(f"picture {scene.seed}")
    if scene.kind in THINGS:
        canvas, frame = draw_background(scene, rng)
        THINGS[scene.kind](canvas, tint(COLOURS[scene.colour], rng), frame, rng)
        return canvas.to_image()
    return draw_animal(scene, animal_look(scene, rng), rng)


def draw_animal(scene: Scene, look: Look, rng: Random) -> Image.Image:
    """Draw the scene with an animal of this look, 64×64 RGB."""
    canvas, frame = draw_background(scene, rng)
    ANIMALS[scene.kind](canvas, look, scene.pose or "standing", frame, rng)
    return canvas.to_image()


def draw_background(scene: Scene, rng: Random) -> tuple[Canvas, Frame]:
    """Draw the scene's place with the subject's shadow; returns the canvas and the frame for the subject."""
    canvas = Canvas()
    # a generator of its own: another drawing of a place does not move the subject
    PLACES[scene.place](canvas, Random(rng.random()))
    scale = SIZE_SCALES[scene.size] * rng.uniform(0.96, 1.04) * KIND_SCALES.get(scene.kind, 1.0)
    feet = 57.0 + rng.uniform(-1.5, 2.5)
    floating = scene.pose in ("swimming", "flying")
    if floating:
        feet -= rng.uniform(0, 6) * (1.3 - scale)
    frame = Frame((SIDE / 2 - 0.5 + rng.uniform(-2.5, 2.5), feet), scale)
    if not floating:
        # the shadow is the ground's own colour, darker, just above the feet
        ground = canvas.image.getpixel((canvas.image.width // 2, round((feet + 1) * 3) - 1))
        assert isinstance(ground, tuple)
        canvas.fill(shade((ground[0], ground[1], ground[2]), 0.72), oval((-1, 0), 20, 2.6), frame=frame)
    return canvas, frame
