"""What a recipe's paths point at, as contents: the base, the pictures, adapters to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from dbrun.models.base import Sampling


@dataclass(frozen=True)
class Picture:
    """An image of the user. digest: sha256 of the file's bytes; prompt: its own or that of all such images.

    variants: further prompts of which each draw takes one; dropout: the share of draws that have the empty one; size:
    its width and height once upright, where they count; mask: the sha256 of its mask's file, if it has one; repeats:
    how often an epoch shows it; reader: the package that reads it and its version, where that is not Pillow.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"variants": (), "dropout": 0.0, "size": None, "mask": None,
                                               "repeats": 1, "reader": None}

    digest: str
    prompt: str
    variants: tuple[str, ...] = ()
    dropout: float = 0.0
    size: tuple[int, int] | None = None
    mask: str | None = None
    repeats: int = 1
    reader: str | None = None


@dataclass(frozen=True)
class BaseSource:
    """The base as it was found, before anything is loaded.

    identity: `hub:<id>@<commit>` or `files:<sha256 over names and contents>`; folder: where it is, None while a
    Hub base is not downloaded yet; files: relative name -> sha256, empty while unknown.
    """

    identity: str
    family: str
    folder: Path | None
    variant: str | None
    files: Mapping[str, str]
    sampling: Sampling


@dataclass(frozen=True)
class Sources:
    """What a recipe's paths point at, as contents. pictures: sorted by digest, so that names do not matter.

    inits: component -> the adapter that `adapt.<component>.init` names: `peft:<sha256 of its config>+<of its
    weights>` or `diffusers:<sha256 of its weights>`.
    class_pictures: those of `prior.images`, likewise; none where the recipe names no such folder.
    pictures_by_subject: which of the pictures are whose, where there are several subjects, in the recipe's order.
    """

    base: BaseSource
    pictures: tuple[Picture, ...]
    inits: Mapping[str, str] = field(default_factory=dict)
    class_pictures: tuple[Picture, ...] = ()
    pictures_by_subject: tuple[tuple[Picture, ...], ...] = ()


@dataclass(frozen=True)
class Numerics:
    """What arithmetic runs on. device: cuda, mps or cpu; threads: CPU threads, 0 where they change nothing."""

    device: str
    threads: int


@dataclass(frozen=True)
class Artifact:
    """A finished output in the store: a read-only folder and the digest of its content."""

    path: Path
    digest: str
