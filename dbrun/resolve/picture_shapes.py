"""Shapes of a recipe's pictures: checks against the base, and notes on buckets and cut-off parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox, CropSettings
from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Picture

MAX_SIDE_RATIO = 2
"""A resolution this many times larger or smaller than the base's own gets a warning."""
LARGE_CROP_SHARE = 0.25
"""Share of a picture's area, 0 to 1, that may be cut off before a warning is given."""
MIN_CROP_SHARE = 0.005
"""Smallest cut-off share that is noted: less is shown as 0%."""


def check_resolution(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError if `images.resolution` is not a multiple that the base accepts. folder: the base's."""
    side = recipe.images.resolution
    multiple = families()[recipe.base.type].resolution_multiple(folder)
    if side % multiple:
        below = side // multiple * multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise RecipeError(f"found {side}, allowed for this base: multiples of {multiple}",
                          fix=f"write {near}")


def check_bucket_step(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError if `images.buckets.step` is not a multiple that the base accepts. folder: the base's."""
    step = recipe.images.buckets.step if recipe.images.buckets else None
    if step is None:
        return
    multiple = families()[recipe.base.type].resolution_multiple(folder)
    if step % multiple:
        # rounded up: below the smallest multiple there is none
        rounded_up = -(-step // multiple) * multiple
        raise RecipeError(f"found {step}, allowed for this base: multiples of {multiple}",
                          fix=f"write {rounded_up}, or remove it")


def resolution_warnings(recipe: Recipe, folder: Path) -> Iterator[str]:
    """Yield at most one warning: for a resolution far from the one that the base was trained with. folder: the base's.
    """
    side = recipe.images.resolution
    native = families()[recipe.base.type].native_resolution(folder)
    if native / MAX_SIDE_RATIO < side < native * MAX_SIDE_RATIO:
        return
    text = f"`images.resolution` is {side}, and this base was made for pictures of {native}: its pictures will be poor"
    if side > native:
        # the cost grows with the number of pixels
        text += f"; a step takes {(side / native) ** 2:.0f} times as long"
    yield text


def shape_notes(pictures: Sequence[Picture], files: Mapping[str, Path], cut: CropSettings | None) -> Iterator[str]:
    """Yield notes: the number of pictures of each bucket shape, and how much is cut off.

    files: digest → path, for the names; cut: None while the base is not here.
    """
    if not pictures:
        return
    if cut is None:
        yield "their buckets are not known before the base is fetched"
        return
    frames: dict[str, CropBox] = {}
    for picture in pictures:
        if picture.size:
            # all crops of a picture have one shape, so the first is enough
            boxes = cut.crop_boxes(picture.digest, picture.size)
            frames[files[picture.digest].name] = boxes[0]
    if len(cut.shapes) > 1:
        shapes = Counter(frame.size for frame in frames.values())
        listed = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sorted(shapes.items()))
        yield f"buckets: {listed}; none is dropped"
    yield from _crop_notes(frames)


def _crop_notes(frames: Mapping[str, CropBox]) -> Iterator[str]:
    """Yield notes on the largest cut-off share, and on the pictures above LARGE_CROP_SHARE. frames: by file name."""
    shares = {name: frame.cropped_share for name, frame in frames.items()}
    # the names decide between equal shares, so that the notes are the same on every machine
    most_first = sorted(shares, key=lambda name: (-shares[name], name))
    if not most_first:
        return
    largest = most_first[0]
    if shares[largest] >= MIN_CROP_SHARE:
        yield f"at most {shares[largest]:.0%} of a picture is cut off ({largest})"
    much = [name for name in most_first if shares[name] >= LARGE_CROP_SHARE]
    if much:
        more = f" and {len(much) - 1} more lose" if len(much) > 1 else " loses"
        yield f"{much[0]}{more} {LARGE_CROP_SHARE:.0%} or more: crop them yourself, or widen `images.buckets`"
