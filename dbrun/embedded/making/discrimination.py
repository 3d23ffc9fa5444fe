"""Figures of an encoder on drawings whose truth is known: subjects told from others, captions found by pictures."""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from PIL import Image
from torch import Tensor

from dbrun.embedded import subject_path
from dbrun.embedded.making.animals import POSES
from dbrun.embedded.making.drawn_subjects import DRAWN_SUBJECTS, View
from dbrun.embedded.making.individuals import random_individual
from dbrun.embedded.making.places import PLACES
from dbrun.embedded.making.world import Scene, draw_scene, random_scene
from dbrun.scores.base import mean_cosines
from dbrun.scores.encoder import Encoder, open_encoder

SUBJECT = "sks_dog"
FIRST_UNSEEN = 1_000_000
"""Seeds from here on were never trained on."""
CHOICES = 32
"""Captions among which a picture's own is looked for."""


def measure_encoder(folder: Path, others: int = 200, rounds: int = 6) -> dict[str, float]:
    """Figures of the encoder in a folder; each is 1 at best. others: dogs of each kind; rounds: of the retrieval.

    auc_other_dogs: chance that a new picture of the subject is nearer to its instance pictures than another dog is;
    auc_unusual_dogs: the same against dogs with marks and collars of their own; retrieval: share of pictures that are
    nearer to their own caption than to 31 others.
    """
    encoder = open_encoder(folder, torch.device("cpu"))
    instances = encoder.embed_pictures([Image.open(path) for path in sorted(subject_path(SUBJECT).glob("*.png"))])
    own = mean_cosines(encoder.embed_pictures(subject_pictures()), instances)
    ordinary = mean_cosines(encoder.embed_pictures(other_dogs(others)), instances)
    unusual = mean_cosines(encoder.embed_pictures(unusual_dogs(others)), instances)
    return {
        "auc_other_dogs": round(auc(own, ordinary), 4),
        "auc_unusual_dogs": round(auc(own, unusual), 4),
        "retrieval": round(retrieval(encoder, rounds), 4),
    }


def auc(positives: Tensor, negatives: Tensor) -> float:
    """Area under the ROC curve: share of all pairs in which the positive, [P], is above the negative, [N]."""
    above = (positives[:, None] > negatives[None, :]).double()
    ties = (positives[:, None] == negatives[None, :]).double()
    return float((above + 0.5 * ties).mean())


def subject_pictures() -> list[Image.Image]:
    """New pictures of the subject: every place in two poses, other jitter than in its instance pictures."""
    subject, poses = DRAWN_SUBJECTS[SUBJECT], POSES["dog"]
    pictures = []
    for number, place in enumerate(PLACES):
        for turn in (0, 1):
            view = View(place, poses[(number + 2 * turn) % len(poses)])
            pictures.append(subject.picture(view, FIRST_UNSEEN + 2 * number + turn))
    return pictures


def other_dogs(count: int) -> list[Image.Image]:
    """Dogs of the world, such as the base draws them."""
    scenes = (random_scene(seed) for seed in range(FIRST_UNSEEN, FIRST_UNSEEN + 40 * count))
    dogs = [scene for scene in scenes if scene.kind == "dog"][:count]
    return [draw_scene(scene) for scene in dogs]


def unusual_dogs(count: int) -> list[Image.Image]:
    """Dogs of the kind that the encoder is trained to tell apart, none of them trained on."""
    pictures: list[Image.Image] = []
    seed = FIRST_UNSEEN
    while len(pictures) < count:
        individual = random_individual(seed)
        if individual.kind == "dog":
            pictures.append(individual.picture(individual.scene(0)))
        seed += 1
    return pictures


def retrieval(encoder: Encoder, rounds: int) -> float:
    """Share of pictures that are nearest to their own caption among CHOICES different ones."""
    found = 0
    for number in range(rounds):
        scenes = _scenes_with_different_captions(number)
        pictures = encoder.embed_pictures([draw_scene(scene) for scene in scenes])
        texts = encoder.embed_texts([full_caption(scene) for scene in scenes])
        nearest = (pictures @ texts.T).argmax(dim=1)
        found += int((nearest == torch.arange(CHOICES)).sum())
    return found / (rounds * CHOICES)


def _scenes_with_different_captions(number: int) -> list[Scene]:
    rng = Random(f"retrieval {number}")
    scenes: dict[str, Scene] = {}
    while len(scenes) < CHOICES:
        scene = random_scene(rng.randrange(FIRST_UNSEEN, 2 * FIRST_UNSEEN))
        scenes.setdefault(full_caption(scene), scene)
    return list(scenes.values())


def full_caption(scene: Scene) -> str:
    """Caption that names class, colour and place, such as "a photo of a brown dog on the beach"."""
    article = "a"
    if scene.colour[0] in "aeiou":
        article = "an"
    return f"a photo of {article} {scene.colour} {scene.kind} {scene.place}"
