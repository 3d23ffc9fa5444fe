"""Report of a recipe's pictures: a row for each, with its crop and warnings. Known contents are not read again."""

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
"""Number of pictures after which the measurements are saved, in case the command is killed."""
MAX_ENLARGEMENT = 1.25
"""Upscale factor above which a picture is reported as tiny: it has far fewer pixels than it is trained with."""


@dataclass(frozen=True)
class PictureRow:
    """One picture of the report.

    half: `instance` or `class`; width, height: in pixels, upright; shape: (width, height) that it is trained in, None
    while the base is not here; lost: share of its area that is cut off, 0 to 1; ways: number of different crops and
    mirror images; odd: warnings.
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
        """Row as JSON data; `lost` has 4 decimals."""
        return {**asdict(self), "lost": round(self.lost, 4)}


def picture_rows(recipe: Recipe, resolved: ResolvedSources, store: Store,
                 seen: Callable[[int, int], None] = lambda done, total: None) -> Sequence[PictureRow]:
    """Rows of a recipe's pictures, sorted by half and name.

    seen: called with (done, total) before each picture that is measured for the first time.
    """
    sources, files = resolved.sources, resolved.files
    named = [*named_pictures("instance", sources.pictures, resolved),
             *named_pictures("class", sources.class_pictures, resolved)]
    by_digest = {picture.digest: files[picture.digest] for _, _, picture in named}
    qualities = _assess_quality(by_digest, store, seen)
    duplicates = _duplicates([(name, picture.digest) for _, name, picture in named], qualities)
    settings = recipe_crop_settings(recipe, sources.base.folder)
    return [_picture_row(half, name, picture, qualities[picture.digest], settings, duplicates.get(number))
            for number, (half, name, picture) in enumerate(named)]


def named_pictures(half: str, pictures: Sequence[Picture],
                   resolved: ResolvedSources) -> list[tuple[str, str, Picture]]:
    """(half, file name, picture) of each file of a half, sorted by name."""
    found: list[tuple[str, str, Picture]] = []
    # a picture whose file is there twice is in `pictures` twice; `file_names` has both names
    for picture in dict.fromkeys(pictures):
        names = resolved.file_names.get(picture, (resolved.files[picture.digest].name,))
        found += [(half, name, picture) for name in names]
    return sorted(found, key=lambda one: (one[1], one[2].prompt))


def _assess_quality(files: Mapping[str, Path], store: Store,
                    seen: Callable[[int, int], None]) -> Mapping[str, PictureQuality]:
    """Quality of each picture, by digest; measured once for each content and saved in the store."""
    found: dict[str, PictureQuality] = {}
    try:
        judges = (quality.__file__, blank.__file__, pixels.__file__)
        # the measuring code is a part of the cache key: when it changes, every picture is measured again
        rules = "".join(store.digests.sha256(Path(file))[:16] for file in judges)
        new = [digest for digest in files if store.image_quality.get(f"{rules}:{digest}") is None]
        for done, digest in enumerate(new):
            seen(done, len(new))
            store.image_quality.put(f"{rules}:{digest}", quality.measure_quality(files[digest]).as_data())
            if done % SAVE_INTERVAL == SAVE_INTERVAL - 1:
                store.save_caches()
        for digest in files:
            data = store.image_quality.get(f"{rules}:{digest}")
            if data:
                found[digest] = PictureQuality.from_data(data)
            else:
                found[digest] = quality.measure_quality(files[digest])
    except OSError as error:
        raise explain_os_error(error, "looking at pictures") from error
    finally:
        store.save_caches()
    return found


def _duplicates(named: Sequence[tuple[str, str]], qualities: Mapping[str, PictureQuality]) -> Mapping[int, str]:
    """Warnings by index in `named`, for pictures that are equal or nearly equal to an earlier one.

    named: (file name, digest) of each picture.
    """
    warnings: dict[int, str] = {}
    first: dict[str, int] = {}
    different: list[int] = []
    for number, (_, digest) in enumerate(named):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            warnings[number] = f"the same picture as {named[earlier][0]}"
        # blank pictures all look alike, which is reported already as their being blank
        elif not qualities[digest].shows:
            different.append(number)

    near = find_near_duplicates([qualities[named[number][1]] for number in different])
    for place, (earlier_place, mirrored) in near.items():
        how = ", mirrored" if mirrored else ""
        earlier_name = named[different[earlier_place]][0]
        warnings[different[place]] = f"nearly the same as {earlier_name}{how}"
    return warnings


def _picture_row(half: str, name: str, picture: Picture, seen: PictureQuality, settings: CropSettings | None,
                 double: str | None) -> PictureRow:
    """Row of one picture. settings: None while its crops are not known; double: warning about an equal picture."""
    boxes = settings.crop_boxes(picture.digest, (seen.width, seen.height)) if settings else ()
    # all boxes of a picture have the same shape and cut off the same share
    box = boxes[0] if boxes else None
    odd = list(_warnings(seen, box))
    if double:
        odd.append(double)
    shape = None if box is None else box.size
    lost = 0.0 if box is None else box.cropped_share
    return PictureRow(name, half, seen.width, seen.height, shape, lost, ways=max(1, len(boxes)),
                      mask=picture.mask is not None, prompt=picture.prompt, odd=tuple(odd))


def _warnings(seen: PictureQuality, frame: CropBox | None) -> Iterator[str]:
    """Warnings about a picture and its first crop. frame: None while its crops are not known."""
    # a blank picture has no edges, so it would be called blurred too
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
