"""The sources of a recipe, identified by content: the base, the pictures, and adapters to start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from dbrun.models.base import Sampling
from dbrun.scores.encoder import Role

EncoderFiles = Mapping[str, str]
"""Name → sha256 of each file of an encoder: all that its embeddings depend on."""


@dataclass(frozen=True)
class Picture:
    """A picture of the user.

    digest: sha256 of the file's bytes; prompt: its own, or that of all instance or class images; variants: further
    prompts, of which each draw takes one; dropout: the share of draws with the empty prompt, 0 to 1; size: (width,
    height) in pixels after EXIF rotation, None where the crop does not depend on it; mask: sha256 of its mask file;
    repeats: how often an epoch shows it; reader: package and version that decodes it, None for Pillow.
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
    """The base before anything of it is loaded.

    identity: `hub:<id>@<commit>`, `files:<sha256 over names and contents>`, or that of a checkpoint of one file,
    `file:<sha256 over names and contents>`, with `+hub:<id>@<commit>` where its tokenizers are on the Hub; family: the
    recipe's `base.type`; folder: None while a Hub base is not downloaded; variant: of the weights' file names, such as
    `fp16`; files: relative name -> sha256, empty while unknown; sampling: the family's sampler settings; incomplete:
    folder of a checkpoint of one file whose tokenizers are not downloaded.
    """

    identity: str
    family: str
    folder: Path | None
    variant: str | None
    files: Mapping[str, str]
    sampling: Sampling
    incomplete: Path | None = None


@dataclass(frozen=True)
class Sources:
    """All sources of a recipe.

    pictures: the instance images, sorted by digest. inits: component -> identity of the adapter that
    `adapt.<component>.init` names: `peft:<sha256 of its config>+<sha256 of its weights>` or `diffusers:<sha256 of its
    weights>`. class_pictures: those of `prior.images`, sorted by digest. pictures_by_subject: the pictures of each
    subject, in the recipe's order; empty for a single subject. encoders: section, `evaluate` or `select`, -> its
    encoders by role.
    """

    # sorted by content, not by file name: renaming a picture changes no cache key and no result

    base: BaseSource
    pictures: tuple[Picture, ...]
    inits: Mapping[str, str] = field(default_factory=dict)
    class_pictures: tuple[Picture, ...] = ()
    pictures_by_subject: tuple[tuple[Picture, ...], ...] = ()
    encoders: Mapping[str, Mapping[Role, EncoderFiles]] = field(default_factory=dict)


@dataclass(frozen=True)
class Numerics:
    """The hardware of the arithmetic. device: cuda, mps or cpu; threads: CPU threads, 0 where they change nothing."""

    device: str
    threads: int


@dataclass(frozen=True)
class Artifact:
    """The finished output of a stage in the store: a read-only folder and the digest of its content."""

    path: Path
    digest: str
