"""Caption sampling: the prompt of a picture in one draw is its own, one of its variants, or the empty one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dbrun.images.manifest import StoredPicture


def draw_prompt(picture: StoredPicture, empty: int | None, at: Callable[[str], torch.Generator]) -> int:
    """The prompt number of this draw.

    empty: the number of the empty prompt, None where no picture has dropout. at: purpose -> the generator of this draw.
    """
    if picture.dropout:
        assert empty is not None, "a manifest with dropout has the empty prompt"
        # drawn before the variant and from a generator of its own: turning dropout on moves no other draw
        if float(torch.rand((), generator=at("caption dropout"))) < picture.dropout:
            return empty
    if not picture.variants:
        return picture.prompt
    chosen = torch.randint(len(picture.variants), (), generator=at("caption"))
    return picture.variants[int(chosen)]
