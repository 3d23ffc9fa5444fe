"""Subjects that ship with the embedded base; `python -m dbrun.embedded.making.drawn_subjects` draws them again."""

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
    """Content of one picture of a subject. kind, colour: of the thing in it, used where the subject is a style."""

    place: str
    pose: Pose | None = None
    kind: str = ""
    colour: str = ""

    def scene(self, kind: str, seed: int) -> Scene:
        """Scene of a plain, medium-sized thing of this kind at the view's place."""
        return Scene(kind, self.colour or "white", self.place, "plain", self.pose, "medium", None, None, seed)


class Subject(Protocol):
    """Subject that a recipe can teach, drawn in any view."""

    @property
    def name(self) -> str:
        """Identifier, a word without a meaning that training binds to the subject; may be empty."""

    @property
    def views(self) -> tuple[View, ...]:
        """Views of its pictures, one each."""

    def prompt(self, view: View) -> str:
        """Prompt of the view's picture; it names the place, so that the place is not learned as part of the subject."""

    def picture(self, view: View, seed: int) -> Image.Image:
        """Picture of the subject in a view, 64×64 RGB; equal arguments give equal pixels."""


@dataclass(frozen=True)
class Animal:
    """One particular animal, recognised by its look."""

    name: str
    kind: str
    look: Look
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Prompt such as "a photo of sks dog on the beach"."""
        return f"a photo of {self.name} {self.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """Picture of the animal in the view's place and pose, 64×64 RGB."""
        return draw_animal(view.scene(self.kind, seed), self.look, Random(f"{self.name} {seed}"))


@dataclass(frozen=True)
class Toy:
    """Toy car, recognised by its paint."""

    name: str
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Prompt such as "a photo of zwx car on the beach"."""
        return f"a photo of {self.name} car {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """Picture of the car in the view's place, 64×64 RGB."""
        rng = Random(f"{self.name} {seed}")
        canvas, frame = draw_background(view.scene("car", seed), rng)
        draw_painted_car(canvas, TOY, frame, rng)
        return canvas.to_image()


@dataclass(frozen=True)
class Style:
    """Style that any scene can be drawn in: the screen print."""

    name: str
    views: tuple[View, ...]

    def prompt(self, view: View) -> str:
        """Prompt such as "an mnv picture of a car on the beach"; it names no colour, because the inks replace them."""
        return f"an {self.name} picture of a {view.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """Picture of the view's scene as a screen print, 64×64 RGB."""
        return screen_print(draw_scene(view.scene(view.kind, seed)))


@dataclass(frozen=True)
class Prints:
    """Screen prints with plain captions, without an identifier: for recipes that fine-tune on a data set."""

    views: tuple[View, ...]
    name: str = ""

    def prompt(self, view: View) -> str:
        """Prompt such as "a picture of a car on the beach"."""
        return f"a picture of a {view.kind} {view.place}"

    def picture(self, view: View, seed: int) -> Image.Image:
        """Picture of the view's scene as a screen print, 64×64 RGB."""
        return screen_print(draw_scene(view.scene(view.kind, seed)))


ORANGE = (232, 120, 40)
DRAWN_SUBJECTS: Mapping[str, Subject] = {
    # no scene of the pre-training looks so: there an animal has at most two coat colours and no turquoise collar
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
"""Embedded subjects by the name that recipes use."""


def write_subject(folder: Path, subject: Subject) -> None:
    """Draw the subject's pictures into `folder` as PNG, each with its prompt in a `.txt` file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, view in enumerate(subject.views):
        subject.picture(view, seed=number).save(folder / f"{number:02d}.png", optimize=True)
        (folder / f"{number:02d}.txt").write_text(subject.prompt(view) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, drawn in DRAWN_SUBJECTS.items():
        write_subject(SUBJECTS / name, drawn)
