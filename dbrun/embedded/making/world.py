"""The world the embedded base model knows: scenes of animals and things, each the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
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
"""Every class of the world."""
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
"""Every colour by its word, in sRGB."""
COAT_COLOURS = ("brown", "black", "white", "gray", "orange")
COAT_COLOUR_SHARE = 0.7
COLLAR_COLOURS = ("red", "blue", "yellow", "green", "purple", "pink")
HAT_COLOURS = ("red", "blue", "yellow", "green", "purple", "pink", "black")
SIZE_SCALES: Mapping[Size, float] = {"small": 0.78, "medium": 1.0, "big": 1.13}
KIND_SCALES: Mapping[str, float] = {"dog": 0.97, "rabbit": 0.9, "fish": 1.05}
"""What keeps long ears and noses inside of the picture."""
DARK_COLOURS = ("brown", "black", "purple", "blue", "gray", "green", "red")


@dataclass(frozen=True)
class Scene:
    """One picture's attributes; `seed` fixes what no word names (jitter, clouds, tints)."""

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
    """The scene that belongs to this seed."""
    rng = Random(f"scene {seed}")
    kind = rng.choice(KINDS)
    place = rng.choice(list(PLACES))
    size: Size = rng.choices(("small", "medium", "big"), (0.2, 0.6, 0.2))[0]
    if kind in THINGS:
        return Scene(kind, rng.choice(list(COLOURS)), place, None, None, size, None, None, seed)
    natural = rng.random() < COAT_COLOUR_SHARE
    colour = rng.choice(COAT_COLOURS if natural else list(COLOURS))
    pattern: Pattern = rng.choices(("plain", "spotted", "striped", "patched"), (0.55, 0.15, 0.15, 0.15))[0]
    pose = rng.choice(POSES[kind])
    collar = rng.choice(COLLAR_COLOURS) if kind in COLLARED and rng.random() < 0.3 else None
    hat = rng.choice(HAT_COLOURS) if rng.random() < 0.18 else None
    return Scene(kind, colour, place, pattern, pose, size, collar, hat, seed)


def animal_look(scene: Scene, rng: Random) -> Look:
    """The colours of an animal's parts, with a tint that differs a little from picture to picture."""
    coat = tint(COLOURS[scene.colour], rng)
    marks = mix(coat, (250, 246, 238), 0.78) if scene.colour in DARK_COLOURS else shade(coat, 0.45)
    return Look(
        coat=coat,
        pattern=scene.pattern or "plain",
        marks=marks,
        collar=COLOURS[scene.collar] if scene.collar else None,
        hat=COLOURS[scene.hat] if scene.hat else None,
    )


def tint(colour: Rgb, rng: Random) -> Rgb:
    """The colour moved by at most 9 steps per channel."""
    r, g, b = (min(255, max(0, part + rng.randint(-9, 9))) for part in colour)
    return (r, g, b)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene's picture, 64×64 RGB."""
    rng = Random(f"picture {scene.seed}")
    if scene.kind in THINGS:
        canvas, frame = draw_background(scene, rng)
        THINGS[scene.kind](canvas, tint(COLOURS[scene.colour], rng), frame, rng)
        return canvas.to_image()
    return draw_animal(scene, animal_look(scene, rng), rng)


def draw_animal(scene: Scene, look: Look, rng: Random) -> Image.Image:
    """The scene's picture with an animal of the given look in it."""
    canvas, frame = draw_background(scene, rng)
    ANIMALS[scene.kind](canvas, look, scene.pose or "standing", frame, rng)
    return canvas.to_image()


def draw_background(scene: Scene, rng: Random) -> tuple[Canvas, Frame]:
    """The empty place with the shadow of what will stand in it, and where it will stand."""
    canvas = Canvas()
    PLACES[scene.place](canvas, Random(rng.random()))
    scale = SIZE_SCALES[scene.size] * rng.uniform(0.96, 1.04) * KIND_SCALES.get(scene.kind, 1.0)
    feet = 57.0 + rng.uniform(-1.5, 2.5)
    floating = scene.pose in ("swimming", "flying")
    if floating:
        feet -= rng.uniform(0, 6) * (1.3 - scale)
    frame = Frame((SIDE / 2 - 0.5 + rng.uniform(-2.5, 2.5), feet), scale)
    if not floating:
        ground = canvas.image.getpixel((canvas.image.width // 2, round((feet + 1) * 3) - 1))
        assert isinstance(ground, tuple)
        canvas.fill(shade((ground[0], ground[1], ground[2]), 0.72), oval((-1, 0), 20, 2.6), frame=frame)
    return canvas, frame
