"""The prompt that a picture has in one draw: its own, one of its variants, or the empty one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dbrun.images.manifest import StoredPicture


def draw_prompt(picture: StoredPicture, empty: int | None, at: Callable[[str], torch.Generator]) -> int:
    """The number of the prompt of this draw.

    empty: the number of the empty prompt; at: gives the generator for a purpose of this draw.
    """
    if picture.dropout:
        assert empty is not None, "a manifest with dropout has the empty prompt"
        if float(torch.rand((), generator=at("caption dropout"))) < picture.dropout:
            return empty
    if not picture.variants:
        return picture.prompt
    chosen = torch.randint(len(picture.variants), (), generator=at("caption"))
    return picture.variants[int(chosen)]
