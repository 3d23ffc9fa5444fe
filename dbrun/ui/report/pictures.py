"""Pictures of a report as thumbnails: previews of a training, class images, rows of sample pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbrun.images.previews import preview_files, read_preview
from dbrun.images.thumbnails import THUMBNAIL_SIDE, every_nth, thumbnail_url
from dbrun.recipe.schema.subject import prompt_cycle

MAX_PREVIEWS = 240
"""Preview pictures of a report; of more steps, those that are kept are spread evenly."""
MAX_PREVIEW_BYTES = 4 * 2**20
"""Size of all previews of a report together, in characters of its text; where they are larger, fewer steps are kept."""
MAX_CLASS_PICTURES = 36
"""Class images of a report, spread evenly."""
MAX_SHEETS = 400
"""Sheets whose thumbnails are kept in memory."""


@dataclass(frozen=True)
class Picture:
    """A picture of the user. half: instance or class; lost: share that is cut off; odd: warnings; url: thumbnail."""

    half: str
    name: str
    prompt: str
    size: str
    lost: float
    ways: int
    odd: tuple[str, ...]
    url: str

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Picture:
        """The picture of an entry of the run's facts."""
        return cls(str(facts["half"]), str(facts["name"]), str(facts["prompt"]),
                   f"{facts['width']} × {facts['height']}", float(facts["lost"]), int(facts["ways"]),
                   tuple(map(str, facts["odd"])), str(facts["url"]))


@dataclass(frozen=True)
class Preview:
    """The previews after one step. urls: one for each prompt."""

    step: int
    urls: tuple[str, ...]


@dataclass(frozen=True)
class ClassPictures:
    """Class images. count: of all; shown: some of them, each as (index, prompt, `data:` URL of its thumbnail)."""

    count: int = 0
    shown: tuple[tuple[int, str, str], ...] = ()


@dataclass
class PreviewReader:
    """Reads the previews of runs; each sheet is cut into thumbnails once."""

    made: dict[Path, tuple[str, ...]] = field(default_factory=dict)

    def read(self, folder: Path, prompts: Sequence[str]) -> tuple[Preview, ...]:
        """The previews in a run's folder, by step; at most MAX_PREVIEWS pictures, the first and the last step included.

        prompts: of the columns.
        """
        if not prompts:
            return ()
        files = preview_files(folder)
        kept = every_nth(len(files), max(2, MAX_PREVIEWS // len(prompts)))
        previews: list[Preview] = []
        for index in kept:
            step, path = files[index]
            urls = self._cut(step, path, len(prompts))
            if urls:
                previews.append(Preview(step, urls))
        return _within(previews, MAX_PREVIEW_BYTES)

    def _cut(self, step: int, path: Path, columns: int) -> tuple[str, ...]:
        """The thumbnails of one sheet; () where it cannot be read."""
        if path not in self.made:
            try:
                pictures = read_preview(step, path, columns)
            except (OSError, ValueError, SyntaxError):
                return ()
            self.made[path] = tuple(map(thumbnail_url, pictures))
            if len(self.made) > MAX_SHEETS:
                # the oldest: a dict keeps the order of insertion
                del self.made[next(iter(self.made))]
        return self.made[path]


def _within(previews: Sequence[Preview], limit: int) -> tuple[Preview, ...]:
    """As many of the previews, evenly spread, as `limit` characters hold; at least the first and the last."""
    size = sum(len(url) for preview in previews for url in preview.urls)
    if size <= limit:
        return tuple(previews)
    room = max(2, len(previews) * limit // size)
    return tuple(previews[index] for index in every_nth(len(previews), room))


def read_class_pictures(folder: Path, params: Mapping[str, Any]) -> ClassPictures:
    """Some of the class images in a result of `generate-priors`. params: of the key that it has."""
    try:
        prompts: list[str] = []
        for own in (params["prompt"], *params.get("others", ())):
            cycle = prompt_cycle(own if isinstance(own, str) else tuple(own))
            prompts += [cycle[index % len(cycle)] for index in range(params["count"])]
        shown = tuple((number, prompts[number], _thumbnail(folder / f"{number:05d}.png"))
                      for number in every_nth(len(prompts), MAX_CLASS_PICTURES))
    # a result of a version with other params, or one that is damaged
    except (OSError, KeyError, TypeError):
        return ClassPictures()
    return ClassPictures(len(prompts), shown)


def read_row(folder: Path, columns: int, side: int = THUMBNAIL_SIDE) -> tuple[str, ...]:
    """The thumbnails of a row of sample pictures. Raises OSError where one is missing."""
    return tuple(_thumbnail(folder / f"{column:02d}.png", side) for column in range(columns))


def _thumbnail(path: Path, side: int = THUMBNAIL_SIDE) -> str:
    from PIL import Image

    with Image.open(path) as picture:
        return thumbnail_url(picture, side)
