"""Where does a batch's condition come from: the cache, or a text encoder that is itself learning?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dbrun.models.base import Condition, Model
from dbrun.training.param_groups import trains_text_encoders

PromptEncoder = Callable[[Sequence[int]], Condition]
"""Prompt indices of a batch's rows -> the batched condition on the device."""


def cached_prompts(model: Model, encoded: Sequence[Condition]) -> PromptEncoder:
    """Conditions that were encoded before; encoded: one per prompt."""
    there = [{name: tensor.to(model.device) for name, tensor in condition.items()} for condition in encoded]
    return lambda prompts: model.collate_conditions([there[i] for i in prompts])


def live_prompts(model: Model, texts: Sequence[str], *, keep: bool = True) -> PromptEncoder:
    """Conditions encoded at every call, with gradients, each distinct prompt of a batch once: a text encoder learns.

    From when on none does any more, each prompt is encoded once, alone and without gradients, and used again; or anew,
    where keep is false.
    """
    settled: dict[int, Condition] = {}

    def encode(prompts: Sequence[int]) -> Condition:
        distinct = sorted(set(prompts))
        if trains_text_encoders(model):
            encoded = dict(zip(distinct, model.encode_prompts([texts[i] for i in distinct]), strict=True))
            return model.collate_conditions([encoded[i] for i in prompts])
        for new in (i for i in distinct if i not in settled or not keep):
            with torch.no_grad():
                settled[new] = model.encode_prompts([texts[new]])[0]
        return model.collate_conditions([settled[i] for i in prompts])

    return encode
