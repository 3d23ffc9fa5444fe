"""Which shapes do a recipe's pictures get, and how much of them is cut off?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images.buckets import Cutting, Frame
from dbrun.models.base import families
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.base import Picture

FAR = 2
"""How many times larger or smaller than those a base was made for pictures are, to be worth a word."""
MUCH = 0.25
"""The share of a picture from which on it is worth a word that it is cut off."""


def check_sides(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError for sides that the base in folder does not take."""
    side, multiple = recipe.images.resolution, families()[recipe.base.type].pixel_multiple(folder)
    if side % multiple:
        below = side // multiple * multiple
        near = f"{below} or {below + multiple}" if below else str(multiple)
        raise RecipeError(f"found {side}, allowed for this base: multiples of {multiple}",
                          fix=f"write {near}")


def check_step(recipe: Recipe, folder: Path) -> None:
    """Raise RecipeError for a step of buckets that the base in folder does not take."""
    step = recipe.images.buckets.step if recipe.images.buckets else None
    if step is None:
        return
    multiple = families()[recipe.base.type].pixel_multiple(folder)
    if step % multiple:
        raise RecipeError(f"found {step}, allowed for this base: multiples of {multiple}",
                          fix=f"write {-(-step // multiple) * multiple}, or take it away")


def odd_side(recipe: Recipe, folder: Path) -> Iterator[str]:
    """A word on a resolution that is far from what the base in folder was made for."""
    side, native = recipe.images.resolution, families()[recipe.base.type].native_side(folder)
    if not native / FAR < side < native * FAR:
        yield (f"`images.resolution` is {side}, and this base was made for pictures of {native}: it draws badly there"
               + (f", and takes {(side / native) ** 2:.0f} times as long" if side > native else ""))


def told(pictures: Sequence[Picture], files: Mapping[str, Path], cut: Cutting | None) -> Iterator[str]:
    """How many pictures get which shape, and which lose much of themselves. files: digest → a file with it."""
    if not pictures:
        return
    if cut is None:
        yield "which bucket they fall into is told once the base is here"
        return
    first = {files[p.digest].name: (p.size, frames[0]) for p in pictures if p.size
             for frames in [cut.frames(p.digest, p.size)]}
    if len(cut.shapes) > 1:
        shapes = Counter(frame.size for _, frame in first.values())
        listed = ", ".join(f"{count} of {width}×{height}" for (width, height), count in sorted(shapes.items()))
        yield f"buckets: {listed}; none is dropped"
    yield from _cut_off({name: frame for name, (_, frame) in first.items()})


def _cut_off(frames: Mapping[str, Frame]) -> Iterator[str]:
    worst = sorted(frames, key=lambda name: (-frames[name].lost, name))
    if worst and frames[worst[0]].lost >= 0.005:
        yield f"at most {frames[worst[0]].lost:.0%} of a picture is cut off ({worst[0]})"
    if much := [name for name in worst if frames[name].lost >= MUCH]:
        more = f" and {len(much) - 1} more lose" if len(much) > 1 else " loses"
        yield f"{much[0]}{more} {MUCH:.0%} or more: crop them yourself, or widen `images.buckets`"
