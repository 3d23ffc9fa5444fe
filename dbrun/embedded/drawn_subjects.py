"""The subjects that ship with the base; `python -m dbrun.embedded.drawn_subjects` draws them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from dbrun.embedded import SUBJECTS
from dbrun.embedded.animals import Look, Pose
from dbrun.embedded.world import Scene, draw_animal


@dataclass(frozen=True)
class Subject:
    """One animal of its own, and the places and poses its pictures show."""

    name: str
    kind: str
    look: Look
    views: tuple[tuple[str, Pose], ...]

    def prompt(self, place: str) -> str:
        """The picture's own prompt: it names the place, so that the place is not learned as the subject."""
        return f"a photo of {self.name} {self.kind} {place}"

    def picture(self, place: str, pose: Pose, seed: int) -> Image.Image:
        """The subject in any place and pose, 64×64 RGB."""
        scene = Scene(self.kind, "white", place, "plain", pose, "medium", None, None, seed)
        return draw_animal(scene, self.look, Random(f"{self.name} {seed}"))


ORANGE = (232, 120, 40)
DRAWN: Mapping[str, Subject] = {
    # three coat colours and a turquoise collar: the world gives an animal at most two, and no such collar
    "sks_dog": Subject(
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
            ("on the grass", "standing"),
            ("on the beach", "sitting"),
            ("in the snow", "running"),
            ("in the forest", "sitting"),
            ("in a room", "lying"),
        ),
    ),
}
"""Every embedded subject by the name a recipe uses."""


def write(folder: Path, subject: Subject) -> None:
    """Draw the subject's pictures into `folder`, each with its prompt beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (place, pose) in enumerate(subject.views):
        subject.picture(place, pose, seed=number).save(folder / f"{number:02d}.png", optimize=True)
        (folder / f"{number:02d}.txt").write_text(subject.prompt(place) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name, drawn in DRAWN.items():
        write(SUBJECTS / name, drawn)
