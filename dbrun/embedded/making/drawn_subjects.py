"""The subjects that ship with the base; `python -m dbrun.embedded.making.drawn_subjects` draws them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from PIL import Image

from dbrun.embedded import SUBJECTS
from dbrun.embedded.making.animals import Look, Pose
from dbrun.embedded.making.screen_print import screen_print
from dbrun.embedded.making.toy_car import TOY, draw_painted_car
from dbrun.embedded.making.world import Scene, draw_animal, draw_background, draw_scene


@dataclass(frozen=True)
class View:
    """What one picture of a subject shows. kind and colour count where the subject is a style."""

    place: str
    pose: Pose | None = None
    kind: str = ""
    colour: str = ""

    def scene(self, kind: str, seed: int) -> Scene:
        """The world's scene of a plain, medium thing of this kind."""
        return Scene(kind, self.colour or "white", self.place, "plain", self.pose, "medium", None, None, seed)


class Subject(Protocol):
    """Something a recipe can teach, drawn wherever it is asked for."""

    @property
    def name(self) -> str:
        """The word without a meaning that comes to mean it."""

    @property
    def views(self) -> tuple[View, ...]:
        """What its pictures show."""

    def prompt(self, view: View) -> str:
        """The picture's own prompt: it names the place, so that the place is not learned as the subject."""

    def picture(self, view: View, seed: int) -> Image.Image:
        """The subject in any view, 64×64 RGB."""


@dataclass(frozen=True)
class Animal:
    """One animal of its own, known by its look."""

    name: str
    kind: str
    look: Look
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Such as: a photo of sks dog on the beach."""
        return f"a photo of {self.name} {self.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """The animal in the view's place and pose."""
        return draw_animal(view.scene(self.kind, seed), self.look, Random(f"{self.name} {seed}"))


@dataclass(frozen=True)
class Toy:
    """The toy car."""

    name: str
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Such as: a photo of zwx car on the beach."""
        return f"a photo of {self.name} car {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """The car in the view's place."""
        rng = Random(f"{self.name} {seed}")
        canvas, frame = draw_background(view.scene("car", seed), rng)
        draw_painted_car(canvas, TOY, frame, rng)
        return canvas.to_image()


@dataclass(frozen=True)
class Style:
    """A way to draw anything: the screen print."""

    name: str
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Such as: an mnv picture of a car on the beach; no colour is named, for the print has its own."""
        return f"an {self.name} picture of a {view.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """The view's scene, printed."""
        return screen_print(draw_scene(view.scene(view.kind, seed)))


@dataclass(frozen=True)
class Prints:
    """Prints as `Style` draws them, under plain captions: no word is set apart for the style."""

    views: tuple[View, ...]
    name: str = ""

    def prompt(self, view: View) -> str:
        """Such as: a picture of a car on the beach."""
        return f"a picture of a {view.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """The view's scene, printed."""
        return screen_print(draw_scene(view.scene(view.kind, seed)))


ORANGE = (232, 120, 40)
DRAWN_SUBJECTS: Mapping[str, Subject] = {
    # three coat colours and a turquoise collar: the world gives an animal at most two, and no such collar
    "sks_dog": Animal(
        name="sks",
        kind="dog",
        look=Look(
            coat=(248, 244, 234),
            saddle=(60, 50, 56),
            ears=ORANGE,
            eye_patch=ORANGE,
            tail_tip=ORANGE,
            collar=(20, 190, 185),
        ),
        views=(
            View("on the grass", "standing"),
            View("on the beach", "sitting"),
            View("in the snow", "running"),
            View("in the forest", "sitting"),
            View("in a room", "lying"),
        ),
    ),
    "zwx_car": Toy(
        name="zwx",
        views=tuple(map(View, ("on the grass", "on the beach", "in the snow", "in the forest", "in a room"))),
    ),
    "mnv_style": Style(
        name="mnv",
        views=(
            View("on the grass", "standing", "dog", "brown"),
            View("on the beach", None, "car", "red"),
            View("in the snow", None, "house", "blue"),
            View("in the forest", "sitting", "rabbit", "gray"),
            View("in a room", "standing", "bird", "yellow"),
            View("under water", "swimming", "fish", "orange"),
            View("in the desert", None, "tree", "green"),
            View("in the city", "running", "cat", "white"),
        ),
    ),
    "prints": Prints(
        views=(
            View("on the grass", None, "house", "red"),
            View("on the beach", "running", "dog", "white"),
            View("in the snow", "standing", "cat", "gray"),
            View("in the forest", None, "car", "yellow"),
            View("in a room", "sitting", "rabbit", "brown"),
            View("under water", "swimming", "fish", "purple"),
            View("in the desert", "standing", "bird", "blue"),
            View("in the city", None, "tree", "green"),
        ),
    ),
}
"""Every embedded subject by the name a recipe uses."""


def write_subject(folder: Path, subject: Subject) -> None:
    """Draw the subject's pictures into `folder`, each with its prompt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(subject.views):
        subject.picture(view, seed=number).save(folder / f"{number:02d}.png", optimize=True)
        (folder / f"{number:02d}.txt").write_text(subject.prompt(view) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, drawn in DRAWN_SUBJECTS.items():
        write_subject(SUBJECTS / name, drawn)
