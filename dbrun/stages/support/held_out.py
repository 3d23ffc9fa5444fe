"""The choice of the held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence

from dbrun.recipe.schema.model import Recipe
from dbrun.seeds import derive_seed
from dbrun.stages.sources import Picture, Sources


def held_out_indices(recipe: Recipe, sources: Sources) -> tuple[int, ...]:
    """The numbers, in `sources.pictures`, of the held-out pictures: of each subject at least one, but never all."""
    choice = recipe.train.held_out
    if choice is None:
        return ()
    subjects = sources.pictures_by_subject or (sources.pictures,)
    held: set[str] = set()
    for pictures in subjects:
        held.update(_choose(pictures, choice.share, recipe.seed))
    return tuple(i for i, picture in enumerate(sources.pictures) if picture.digest in held)


def _choose(pictures: Sequence[Picture], share: float, seed: int) -> list[str]:
    """The digests of the held-out pictures of one subject. share: 0 to 1."""
    # ordered by a hash of content and seed: neither a new name nor a new picture changes the order of the others, and
    # of two pictures with equal content both are held out or none
    digests = sorted({p.digest for p in pictures}, key=lambda digest: derive_seed(seed, "held out", digest))
    wanted = max(1, round(share * len(digests)))
    return digests[:min(len(digests) - 1, wanted)]
