"""Is the world the same for the same seed, whole inside the picture, and rich?"""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dbrun.embedded.making.animals import ANIMALS, POSES
from dbrun.embedded.making.world import COAT_COLOURS, COLOURS, KINDS, PLACES, draw_scene, random_scene

PRINT_DIGEST = """
import hashlib
from dbrun.embedded.making.world import draw_scene, random_scene
print(hashlib.sha256(b"".join(draw_scene(random_scene(seed)).tobytes() for seed in range(40))).hexdigest())
"""


def test_a_seed_fixes_the_scene_and_its_pixels_in_every_process() -> None:
    here = hashlib.sha256(b"".join(draw_scene(random_scene(seed)).tobytes() for seed in range(40))).hexdigest()
    there = subprocess.run([sys.executable, "-c", PRINT_DIGEST], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_drawing_does_not_touch_or_read_the_global_random_numbers() -> None:
    import random

    random.seed(1)
    before = random.getstate()
    first = draw_scene(random_scene(3)).tobytes()
    assert random.getstate() == before
    random.seed(2)
    assert draw_scene(random_scene(3)).tobytes() == first


def test_a_picture_is_64_pixels_rgb() -> None:
    picture = draw_scene(random_scene(0))
    assert (picture.size, picture.mode) == ((64, 64), "RGB")


def test_everything_the_world_knows_is_drawn_about_equally_often() -> None:
    scenes = [random_scene(seed) for seed in range(4000)]
    kinds = Counter(scene.kind for scene in scenes)
    places = Counter(scene.place for scene in scenes)
    assert set(kinds) == set(KINDS) and set(places) == set(PLACES)
    assert max(kinds.values()) < 1.5 * min(kinds.values())
    assert max(places.values()) < 1.5 * min(places.values())
    for kind, poses in POSES.items():
        assert {scene.pose for scene in scenes if scene.kind == kind} == set(poses)


def test_most_animals_wear_a_natural_coat_and_things_come_in_every_colour() -> None:
    scenes = [random_scene(seed) for seed in range(4000)]
    coats = [scene.colour in COAT_COLOURS for scene in scenes if scene.kind in ANIMALS]
    assert 0.7 < sum(coats) / len(coats) < 0.95
    assert {scene.colour for scene in scenes if scene.kind == "car"} == set(COLOURS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_colour_word_is_the_colour_most_of_the_figure_has(kind: str) -> None:
    """The picture in one colour differs from the picture in another, and on average towards that colour."""
    base = replace(random_scene(5), kind=kind, pattern=None, collar=None, hat=None, place="on the moon", size="big")
    base = replace(base, pose=POSES[kind][0] if kind in POSES else None)
    red, blue = (np.asarray(draw_scene(replace(base, colour=colour)), dtype=int) for colour in ("red", "blue"))
    changed = (red != blue).any(axis=2)
    assert changed.mean() > 0.05
    assert red[changed][:, 0].mean() > red[changed][:, 2].mean() + 40
    assert blue[changed][:, 2].mean() > blue[changed][:, 0].mean() + 40


@pytest.mark.parametrize("kind", sorted(POSES))
def test_every_animal_faces_right(kind: str) -> None:
    """A hat sits on the head: its pixels lie right of the figure's middle."""
    for seed in range(4):
        base = replace(random_scene(seed), kind=kind, pose=POSES[kind][0], colour="gray", pattern="plain")
        base = replace(base, collar=None, size="medium")
        bare, hatted = (np.asarray(draw_scene(replace(base, hat=hat)), dtype=int) for hat in (None, "red"))
        columns = np.nonzero((bare != hatted).any(axis=2))[1]
        assert columns.mean() > 32


@pytest.mark.parametrize("kind", sorted(POSES))
@pytest.mark.parametrize(("size", "allowed"), [("small", 0), ("medium", 8), ("big", 28)])
def test_little_more_than_a_tail_leaves_the_picture(kind: str, size: str, allowed: int) -> None:
    for seed in range(6):
        for pose in POSES[kind]:
            base = replace(random_scene(seed), kind=kind, pose=pose, pattern="plain", hat=None, collar=None, size=size)
            red, blue = (np.asarray(draw_scene(replace(base, colour=colour)), dtype=int) for colour in ("red", "blue"))
            changed = (red != blue).any(axis=2)
            edge = np.concatenate([changed[:, 0], changed[:, -1], changed[0], changed[-1]])
            assert edge.sum() <= allowed, (seed, pose)
