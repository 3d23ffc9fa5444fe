"""What becomes of each picture of a recipe, and what is odd about it? Known contents are not looked at again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dbrun.images import blank, pixels, quality
from dbrun.images.buckets import CropBox, CropSettings
from dbrun.images.quality import BLUR_THRESHOLD, PictureQuality, find_near_duplicates
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.picture_shapes import LARGE_CROP_SHARE
from dbrun.resolve.sources import ResolvedSources
from dbrun.stages.sources import Picture
from dbrun.stages.support.crops import recipe_crop_settings
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

SAVE_INTERVAL = 500
"""Pictures after which what was seen so far is kept, in case the command is killed."""
MAX_ENLARGEMENT = 1.25
"""A picture that must be made more than this many times wider shows fewer pixels than it is trained with."""


@dataclass(frozen=True)
class PictureRow:
    """One picture. half: `instance` or `class`; width, height: upright; shape: (width, height) it is trained in.

    lost: the share that is cut off; ways: how many crops and mirror images of it are shown; odd: what is odd about it.
    """

    name: str
    half: str
    width: int
    height: int
    shape: tuple[int, int] | None
    lost: float
    ways: int
    mask: bool
    prompt: str
    odd: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        """The same as JSON data."""
        return {**asdict(self), "lost": round(self.lost, 4)}


def picture_rows(recipe: Recipe, resolved: ResolvedSources, store: Store,
                 seen: Callable[[int, int], None] = lambda done, total: None) -> Sequence[PictureRow]:
    """A row for each picture of the recipe, by half and name. seen: told how many were looked at for the first time."""
    sources, files = resolved.sources, resolved.files
    halves = {"instance": sources.pictures, "class": sources.class_pictures}
    # a picture that lies there twice is in the list twice
    asked = sorted(((half, name, picture) for half, pictures in halves.items() for picture in dict.fromkeys(pictures)
                    for name in resolved.file_names.get(picture, (files[picture.digest].name,))),
                   key=lambda one: (one[0] != "instance", one[1], one[2].prompt))
    known = _assess_quality({picture.digest: files[picture.digest] for _, _, picture in asked}, store, seen)
    doubles = _duplicates([(name, picture.digest) for _, name, picture in asked], known)
    cut = recipe_crop_settings(recipe, sources.base.folder)
    return [_picture_row(half, name, picture, known[picture.digest], cut, doubles.get(number))
            for number, (half, name, picture) in enumerate(asked)]


def _assess_quality(files: Mapping[str, Path], store: Store,
                    seen: Callable[[int, int], None]) -> Mapping[str, PictureQuality]:
    """How the pictures look, by digest."""
    found: dict[str, PictureQuality] = {}
    try:
        judges = (quality.__file__, blank.__file__, pixels.__file__)
        rules = "".join(store.digests.sha256(Path(file))[:16] for file in judges)
        new = [digest for digest in files if store.image_quality.get(f"{rules}:{digest}") is None]
        for done, digest in enumerate(new):
            seen(done, len(new))
            store.image_quality.put(f"{rules}:{digest}", quality.measure_quality(files[digest]).as_data())
            if done % SAVE_INTERVAL == SAVE_INTERVAL - 1:
                store.save_caches()
        for digest in files:
            data = store.image_quality.get(f"{rules}:{digest}")
            found[digest] = PictureQuality.from_data(data) if data else quality.measure_quality(files[digest])
    except OSError as error:
        raise explain_os_error(error, "looking at pictures") from error
    finally:
        store.save_caches()
    return found


def _duplicates(named: Sequence[tuple[str, str]], known: Mapping[str, PictureQuality]) -> Mapping[int, str]:
    """What is to be said of pictures that are the same as an earlier one, or nearly."""
    first: dict[str, int] = {}
    same = {number: earlier for number, (_, digest) in enumerate(named)
            if (earlier := first.setdefault(digest, number)) != number}
    # where nothing is shown, everything looks alike
    shown = [number for number, (_, digest) in enumerate(named) if number not in same and not known[digest].shows]
    near = find_near_duplicates([known[named[number][1]] for number in shown])
    return {**{number: f"the same picture as {named[earlier][0]}" for number, earlier in same.items()},
            **{shown[number]: f"nearly the same as {named[shown[earlier]][0]}{', mirrored' * mirrored}"
               for number, (earlier, mirrored) in near.items()}}


def _picture_row(half: str, name: str, picture: Picture, seen: PictureQuality, cut: CropSettings | None,
                 double: str | None) -> PictureRow:
    size = seen.width, seen.height
    frames = cut.crop_boxes(picture.digest, size) if cut else ()
    frame = frames[0] if frames else None
    return PictureRow(name, half, *size, frame.size if frame else None, frame.cropped_share if frame else 0.0,
                      max(1, len(frames)),
                      picture.mask is not None, picture.prompt,
                      (*_warnings(seen, frame), *([double] if double else [])))


def _warnings(seen: PictureQuality, frame: CropBox | None) -> Iterator[str]:
    if seen.shows:
        yield seen.shows
    elif seen.blur >= BLUR_THRESHOLD:
        yield "blurred"
    if frame is None:
        return
    times = frame.upscale_factor((seen.width, seen.height))
    if times > MAX_ENLARGEMENT:
        yield f"tiny: made {times:.1f} times larger"
    if frame.cropped_share >= LARGE_CROP_SHARE:
        yield f"{frame.cropped_share:.0%} cut off"
