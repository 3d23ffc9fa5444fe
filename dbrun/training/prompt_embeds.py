"""Where does a batch's condition come from: the cache, or a text encoder that is itself learning?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dbrun.models.base import Condition, Family, Loaded
from dbrun.training.param_groups import trains_text_encoders

PromptEncoder = Callable[[Sequence[int]], Condition]
"""Prompt indices of a batch's rows -> the batched condition on the device."""


def cached_prompts(family: Family, encoded: Sequence[Condition], device: torch.device) -> PromptEncoder:
    """Conditions that were encoded before; encoded: one per prompt."""
    there = [{name: tensor.to(device) for name, tensor in condition.items()} for condition in encoded]
    return lambda prompts: family.collate_conditions([there[i] for i in prompts])


def live_prompts(family: Family, loaded: Loaded, texts: Sequence[str], *, keep: bool = True) -> PromptEncoder:
    """Conditions encoded at every call, with gradients, each distinct prompt of a batch once: a text encoder learns.

    From when on none does any more, each prompt is encoded once, alone and without gradients, and used again; or anew,
    where keep is false.
    """
    settled: dict[int, Condition] = {}

    def encode(prompts: Sequence[int]) -> Condition:
        distinct = sorted(set(prompts))
        if trains_text_encoders(family, loaded):
            encoded = dict(zip(distinct, family.encode_prompts(loaded, [texts[i] for i in distinct]), strict=True))
            return family.collate_conditions([encoded[i] for i in prompts])
        for new in (i for i in distinct if i not in settled or not keep):
            with torch.no_grad():
                settled[new] = family.encode_prompts(loaded, [texts[new]])[0]
        return family.collate_conditions([settled[i] for i in prompts])

    return encode
