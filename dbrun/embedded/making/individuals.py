"""Random individuals of the drawn world: one look each, drawn in several places and poses; equal seeds, equal pictures.

They teach the encoder what makes two pictures show the same one. No subject that ships with dbrun is among them: the
colours of an individual's marks are drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from dbrun.embedded.making.animals import COLLARED, POSES, Look, Pattern
from dbrun.embedded.making.brush import Rgb
from dbrun.embedded.making.places import PLACES
from dbrun.embedded.making.toy_car import Paint, draw_painted_car
from dbrun.embedded.making.world import (
    COAT_COLOURS,
    COLLAR_COLOURS,
    COLOURS,
    HAT_COLOURS,
    Scene,
    Size,
    draw_animal,
    draw_background,
    draw_scene,
    tint,
)

KIND_WEIGHTS = {"dog": 10, "cat": 3, "rabbit": 2, "bird": 1, "fish": 1, "car": 3, "house": 1, "tree": 1}
"""Class → how often it is drawn; most recipes teach a dog, and dogs must be told from dogs."""
ORDINARY_SHARE = 0.25
"""Share of the individuals that look as any animal of the world does: a coat, a pattern, seldom a collar or a hat."""


@dataclass(frozen=True)
class Individual:
    """One particular animal or thing. look: of an animal; paint: of a car; colour, pattern, collar, hat: its words.

    collar, hat: None also where it wears one whose colour has no word.
    """

    kind: str
    colour: str
    pattern: Pattern | None
    collar: str | None
    hat: str | None
    look: Look | None
    paint: Paint | None
    seed: int

    def scene(self, view: int) -> Scene:
        """Scene of one of its views, whose place, pose and size are drawn at random."""
        rng = Random(f"individual {self.seed} view {view}")
        place = rng.choice(list(PLACES))
        size: Size = rng.choices(("small", "medium", "big"), (0.2, 0.6, 0.2))[0]
        pose = None
        if self.look is not None:
            pose = rng.choice(POSES[self.kind])
        return Scene(self.kind, self.colour, place, self.pattern, pose, size, self.collar, self.hat,
                     rng.getrandbits(48))

    def picture(self, scene: Scene) -> Image.Image:
        """Picture of the individual, 64×64 pixels, RGB. scene: one that its method `scene` returned."""
        if self.look is not None:
            return draw_animal(scene, self.look, Random(f"picture {scene.seed}"))
        if self.paint is not None:
            rng = Random(f"picture {scene.seed}")
            canvas, frame = draw_background(scene, rng)
            draw_painted_car(canvas, self.paint, frame, rng)
            return canvas.to_image()
        return draw_scene(scene)


def random_individual(seed: int) -> Individual:
    """Individual of a seed."""
    # the order of the draws decides every individual, and the published encoder was trained on these
    rng = Random(f"individual {seed}")
    kind = rng.choices(list(KIND_WEIGHTS), list(KIND_WEIGHTS.values()))[0]
    colour = rng.choice(list(COLOURS))
    if kind == "car":
        paint = Paint(tint(COLOURS[colour], rng), *(_colour_or_none(rng, 0.5) for _ in range(4)))
        return Individual(kind, colour, None, None, None, None, paint, seed)
    if kind in ("house", "tree"):
        return Individual(kind, colour, None, None, None, None, None, seed)
    if rng.random() < 0.6:
        colour = rng.choice(COAT_COLOURS)
    pattern: Pattern = rng.choices(("plain", "spotted", "striped", "patched"), (0.55, 0.15, 0.15, 0.15))[0]
    collar_share, mark_shares = 0.3, (0.0, 0.0, 0.0, 0.0)
    if rng.random() >= ORDINARY_SHARE:
        collar_share, mark_shares = 0.5, (0.5, 0.4, 0.5, 0.4)
    collar, collar_colour = _worn(rng, COLLAR_COLOURS, collar_share)
    if kind not in COLLARED:
        collar = collar_colour = None
    hat, hat_colour = _worn(rng, HAT_COLOURS, 0.18)
    marks = _any_colour(rng)
    ears, eye_patch, saddle, tail_tip = (_colour_or_none(rng, share) for share in mark_shares)
    look = Look(tint(COLOURS[colour], rng), pattern, marks, ears, eye_patch, saddle, tail_tip, collar_colour,
                hat_colour)
    return Individual(kind, colour, pattern, collar, hat, look, None, seed)


def _worn(rng: Random, words: tuple[str, ...], share: float) -> tuple[str | None, Rgb | None]:
    """Word and colour of a collar or hat; no word for a colour that has none; neither where it wears none."""
    if rng.random() >= share:
        return None, None
    if rng.random() < 0.5:
        word = rng.choice(words)
        return word, COLOURS[word]
    return None, _any_colour(rng)


def _colour_or_none(rng: Random, share: float) -> Rgb | None:
    """Random colour in this share of the draws, else None."""
    if rng.random() >= share:
        return None
    return _any_colour(rng)


def _any_colour(rng: Random) -> Rgb:
    """Random colour: of the world's palette, or any."""
    if rng.random() < 0.5:
        return tint(COLOURS[rng.choice(list(COLOURS))], rng)
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))
