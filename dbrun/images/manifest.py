"""The pictures of a training half: which stored crops show each, which prompts it has, and how often it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["instance", "class"]


@dataclass(frozen=True)
class StoredPicture:
    """A picture as `preprocess` stored it.

    crops: the names of its latents, all of one shape, of which each draw takes one; prompt: the number of its prompt;
    variants: the numbers of all prompts of which each draw takes one, empty where it has its one prompt;
    dropout: the share of its draws that have the empty prompt, 0 to 1; repeats: how often an epoch shows it.
    """

    crops: tuple[str, ...]
    prompt: int
    variants: tuple[int, ...] = ()
    dropout: float = 0.0
    repeats: int = 1


@dataclass(frozen=True)
class Manifest:
    """The pictures of both halves, in the order of their numbers. classes: empty without prior preservation.

    empty_prompt: the number of the empty prompt, which dropout puts in place of a picture's own; None where no
    picture has dropout.
    """

    instance: tuple[StoredPicture, ...]
    classes: tuple[StoredPicture, ...]
    empty_prompt: int | None = None


def picture_id(half: Half, number: int) -> str:
    """The name of a picture's first crop in latents.safetensors."""
    return f"{half}.{number:05d}"


def crop_name(picture: str, number: int) -> str:
    """The name of a crop of the picture with this id; number: counted from 0."""
    return f"{picture}.{number:03d}" if number else picture


def picture_of(name: str) -> str:
    """The id of the picture that the crop of this name shows: `instance.00003` for `instance.00003.001`."""
    return ".".join(name.split(".")[:2])
