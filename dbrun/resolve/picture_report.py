"""A row for each picture of a recipe: its crop, and what is odd about it. Known contents are not looked at again."""

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
    named = [*_named_pictures("instance", sources.pictures, resolved),
             *_named_pictures("class", sources.class_pictures, resolved)]
    known = _assess_quality({picture.digest: files[picture.digest] for _, _, picture in named}, store, seen)
    doubles = _duplicates([(name, picture.digest) for _, name, picture in named], known)
    settings = recipe_crop_settings(recipe, sources.base.folder)
    return [_picture_row(half, name, picture, known[picture.digest], settings, doubles.get(number))
            for number, (half, name, picture) in enumerate(named)]


def _named_pictures(half: str, pictures: Sequence[Picture],
                    resolved: ResolvedSources) -> list[tuple[str, str, Picture]]:
    """(half, file name, picture) of each file of a half, by name."""
    found: list[tuple[str, str, Picture]] = []
    # a picture that lies there twice is in `pictures` twice; `file_names` has both its names
    for picture in dict.fromkeys(pictures):
        names = resolved.file_names.get(picture, (resolved.files[picture.digest].name,))
        found += [(half, name, picture) for name in names]
    return sorted(found, key=lambda one: (one[1], one[2].prompt))


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
    told: dict[int, str] = {}
    first: dict[str, int] = {}
    different: list[int] = []
    for number, (_, digest) in enumerate(named):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            told[number] = f"the same picture as {named[earlier][0]}"
        # where nothing is shown, everything looks alike
        elif not known[digest].shows:
            different.append(number)

    near = find_near_duplicates([known[named[number][1]] for number in different])
    for place, (earlier_place, mirrored) in near.items():
        how = ", mirrored" if mirrored else ""
        told[different[place]] = f"nearly the same as {named[different[earlier_place]][0]}{how}"
    return told


def _picture_row(half: str, name: str, picture: Picture, seen: PictureQuality, settings: CropSettings | None,
                 double: str | None) -> PictureRow:
    """The row of one picture. settings: None where its crops are not known yet; double: a word on an equal one."""
    boxes = settings.crop_boxes(picture.digest, (seen.width, seen.height)) if settings else ()
    # all boxes of a picture have one shape, and cut off as much
    box = boxes[0] if boxes else None
    odd = list(_warnings(seen, box))
    if double:
        odd.append(double)
    return PictureRow(name, half, seen.width, seen.height, shape=box.size if box else None,
                      lost=box.cropped_share if box else 0.0, ways=max(1, len(boxes)), mask=picture.mask is not None,
                      prompt=picture.prompt, odd=tuple(odd))


def _warnings(seen: PictureQuality, frame: CropBox | None) -> Iterator[str]:
    """What is odd about a picture and its first crop, as far as its crops are known."""
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
