"""Halves of pictures for tests of training, whose latents are given one by one."""

from collections.abc import Mapping, Sequence

import torch

from dbrun.images.manifest import StoredPicture
from dbrun.training.batches import PictureSet


def picture_set(name: str, latents: Sequence[torch.Tensor], prompts: Sequence[int], *,
                crops: Sequence[Sequence[int]] | None = None, variants: Sequence[Sequence[int]] = (),
                dropout: Sequence[float] = (), repeats: Sequence[int] = (),
                loss_masks: Mapping[int, torch.Tensor] = {}, empty_prompt: int | None = None) -> PictureSet:
    """A half whose crops are named after their places in latents; each picture is one crop unless crops says more."""
    count = len(prompts)
    places = crops or [(number,) for number in range(count)]
    pictures = [StoredPicture(tuple(map(str, places[i])), prompts[i], tuple(variants[i]) if variants else (),
                              dropout[i] if dropout else 0.0, repeats[i] if repeats else 1) for i in range(count)]
    return PictureSet(name, pictures, {str(i): tensor for i, tensor in enumerate(latents)},
                      {str(i): mask for i, mask in loss_masks.items()}, empty_prompt)
