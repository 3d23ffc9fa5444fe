"""Prompt encoders: the condition of a batch, from the cache or from a text encoder that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dbrun.models.base import Condition, Model
from dbrun.training.param_groups import trains_text_encoders

PromptEncoder = Callable[[Sequence[int]], Condition]
"""Prompt numbers of a batch's rows -> the batched condition, named tensors [B, …] on the device."""


def cached_prompts(model: Model, encoded: Sequence[Condition]) -> PromptEncoder:
    """A prompt encoder that looks up stored conditions. encoded: one per prompt, by number, without a batch axis."""
    # moved once: every step reads them
    on_device: list[Condition] = []
    for condition in encoded:
        on_device.append({name: tensor.to(model.device) for name, tensor in condition.items()})
    return lambda prompts: model.collate_conditions([on_device[i] for i in prompts])


def live_prompts(model: Model, texts: Sequence[str], *, keep: bool = True) -> PromptEncoder:
    """A prompt encoder that runs the text encoders, with gradients, for each distinct prompt of a batch.

    texts: the prompts, by number. Once no text encoder trains any more (`stop_at`), each prompt is encoded alone,
    without gradients, and kept; with keep=False it is encoded again at every call.
    """
    kept: dict[int, Condition] = {}

    def encode(prompts: Sequence[int]) -> Condition:
        distinct = sorted(set(prompts))
        if trains_text_encoders(model):
            encoded = dict(zip(distinct, model.encode_prompts([texts[i] for i in distinct]), strict=True))
            return model.collate_conditions([encoded[i] for i in prompts])
        # alone, never in a batch: neighbours can change its last bits, and after a resume it may have others
        for number in distinct:
            if keep and number in kept:
                continue
            with torch.no_grad():
                kept[number] = model.encode_prompts([texts[number]])[0]
        return model.collate_conditions([kept[i] for i in prompts])

    return encode
