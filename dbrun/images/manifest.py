"""Manifest of the stored training pictures: the crops, the prompts and the repeats of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["instance", "class"]


@dataclass(frozen=True)
class StoredPicture:
    """Picture as the stage `preprocess` stored it.

    crops: names of its latents, all of one shape; each draw takes one. prompt: index of its prompt.
    variants: indices of its prompts where it has several; each draw takes one. dropout: share of the draws with the
    empty prompt, 0 to 1. repeats: times that an epoch shows it.
    """

    crops: tuple[str, ...]
    prompt: int
    variants: tuple[int, ...] = ()
    dropout: float = 0.0
    repeats: int = 1


@dataclass(frozen=True)
class Manifest:
    """Pictures of both halves, in the order of their numbers. classes: empty without prior preservation.

    empty_prompt: index of the empty prompt that caption dropout uses; None where no picture has dropout.
    """

    instance: tuple[StoredPicture, ...]
    classes: tuple[StoredPicture, ...]
    empty_prompt: int | None = None


def picture_id(half: Half, number: int) -> str:
    """Id of a picture, which is also its first crop's name in latents.safetensors."""
    return f"{half}.{number:05d}"


def crop_name(picture: str, number: int) -> str:
    """Name of a crop of the picture with this id; number: the crop's, counted from 0."""
    # the first crop has the picture's plain id, so that more crops rename none
    if number == 0:
        return picture
    return f"{picture}.{number:03d}"


def picture_of(name: str) -> str:
    """Id of the picture that a crop shows: `instance.00003` for the crop `instance.00003.001`."""
    return ".".join(name.split(".")[:2])
