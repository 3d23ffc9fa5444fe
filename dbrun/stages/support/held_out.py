"""Which pictures are held out?"""

from __future__ import annotations

from collections.abc import Sequence

from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive
from dbrun.stages.base import Picture, Sources


def held_out(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """The numbers, in `sources.pictures`, of those that are not trained on; each subject keeps at least one.

    Which they are follows from contents and seed: neither a file's name nor another picture's coming moves one out of
    its place in the order.
    """
    choice = recipe.train.held_out
    if choice is None:
        return ()
    subjects = sources.of_subjects or (sources.pictures,)
    held = {digest for pictures in subjects for digest in _drawn(pictures, choice.share, recipe.seed)}
    return tuple(i for i, picture in enumerate(sources.pictures) if picture.digest in held)


def _drawn(pictures: Sequence[Picture], share: float, seed: int) -> list[str]:
    digests = sorted({p.digest for p in pictures}, key=lambda digest: derive(seed, "held out", digest))
    return digests[:min(len(digests) - 1, max(1, round(share * len(digests))))]
