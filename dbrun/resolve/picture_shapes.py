"""Which shapes do a recipe's pictures get, and how much of them is cut off?"""

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
"""How many times larger or smaller than those a base was made for pictures are, to be worth a word."""
LARGE_CROP_SHARE = 0.25
"""The share of a picture from which on it is worth a word that it is cut off."""


def check_resolution(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError for sides that the base in folder does not take."""
    side, multiple = recipe.images.resolution, families()[recipe.base.type].resolution_multiple(folder)
    if side % multiple:
        below = side // multiple * multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise RecipeError(f"found {side}, allowed for this base: multiples of {multiple}",
                          fix=f"write {near}")


def check_bucket_step(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError for a step of buckets that the base in folder does not take."""
    step = recipe.images.buckets.step if recipe.images.buckets else None
    if step is None:
        return
    multiple = families()[recipe.base.type].resolution_multiple(folder)
    if step % multiple:
        raise RecipeError(f"found {step}, allowed for this base: multiples of {multiple}",
                          fix=f"write {-(-step // multiple) * multiple}, or take it away")


def resolution_warnings(recipe: Recipe, folder: Path) -> Iterator[str]:
    """A word on a resolution that is far from what the base in folder was made for."""
    side, native = recipe.images.resolution, families()[recipe.base.type].native_resolution(folder)
    if not native / MAX_SIDE_RATIO < side < native * MAX_SIDE_RATIO:
        yield (f"`images.resolution` is {side}, and this base was made for pictures of {native}: it draws badly there"
               + (f", and takes {(side / native) ** 2:.0f} times as long" if side > native else ""))


def shape_notes(pictures: Sequence[Picture], files: Mapping[str, Path], cut: CropSettings | None) -> Iterator[str]:
    """How many pictures get which shape, and which lose much of themselves. files: digest → a file with it."""
    if not pictures:
        return
    if cut is None:
        yield "which bucket they fall into is told once the base is here"
        return
    first = {files[p.digest].name: (p.size, frames[0]) for p in pictures if p.size
             for frames in [cut.crop_boxes(p.digest, p.size)]}
    if len(cut.shapes) > 1:
        shapes = Counter(frame.size for _, frame in first.values())
        listed = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sorted(shapes.items()))
        yield f"buckets: {listed}; none is dropped"
    yield from _crop_notes({name: frame for name, (_, frame) in first.items()})


def _crop_notes(frames: Mapping[str, CropBox]) -> Iterator[str]:
    worst = sorted(frames, key=lambda name: (-frames[name].cropped_share, name))
    if worst and frames[worst[0]].cropped_share >= 0.005:
        yield f"at most {frames[worst[0]].cropped_share:.0%} of a picture is cut off ({worst[0]})"
    if much := [name for name in worst if frames[name].cropped_share >= LARGE_CROP_SHARE]:
        more = f" and {len(much) - 1} more lose" if len(much) > 1 else " loses"
        yield f"{much[0]}{more} {LARGE_CROP_SHARE:.0%} or more: crop them yourself, or widen `images.buckets`"
