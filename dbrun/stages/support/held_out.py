"""Which pictures are held out?"""

from __future__ import annotations

from collections.abc import Sequence

from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive_seed
from dbrun.stages.sources import Picture, Sources


def held_out_indices(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """The numbers, in `sources.pictures`, of those that are not trained on; each subject keeps at least one.

    Which they are follows from contents and seed: neither a file's name nor another picture's coming moves one out of
    its place in the order.
    """
    choice = recipe.train.held_out
    if choice is None:
        return ()
    subjects = sources.pictures_by_subject or (sources.pictures,)
    held = {digest for pictures in subjects for digest in _choose(pictures, choice.share, recipe.seed)}
    return tuple(i for i, picture in enumerate(sources.pictures) if picture.digest in held)


def _choose(pictures: Sequence[Picture], share: float, seed: int) -> list[str]:
    digests = sorted({p.digest for p in pictures}, key=lambda digest: derive_seed(seed, "held out", digest))
    return digests[:min(len(digests) - 1, max(1, round(share * len(digests))))]
