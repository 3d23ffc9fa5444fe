"""Prompt encoders: the condition of a batch, from the cache or from a text encoder that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from dbrun.models.base import Condition, Model
from dbrun.models.prompt_encoding import NOTHING_KNOWN, KnownOutputs
from dbrun.training.param_groups import trains_text_encoders

PromptEncoder = Callable[[Sequence[int]], Condition]
"""Prompt numbers of a batch's rows -> the batched condition: named tensors [B, …], on the device or on the CPU."""


def cached_prompts(model: Model, encoded: Sequence[Condition]) -> PromptEncoder:
    """A prompt encoder that looks up stored conditions. encoded: one per prompt, by number, without a batch axis."""
    kept = [to_host(condition, model.dtype) for condition in encoded]
    return lambda prompts: model.collate_conditions([kept[number] for number in prompts])


def live_prompts(model: Model, texts: Sequence[str], *, known: KnownOutputs = NOTHING_KNOWN,
                 keep: bool = True) -> PromptEncoder:
    """A prompt encoder that runs the text encoders, with gradients, for each distinct prompt of a batch.

    texts: the prompts, by number; known: what text encoders give of them that do not learn, and so do not run. Once no
    text encoder trains any more (`stop_at`), each prompt is encoded alone, without gradients, and kept; with keep=False
    it is encoded again at every call.
    """
    kept: dict[int, Condition] = {}

    def encode(prompts: Sequence[int]) -> Condition:
        distinct = sorted(set(prompts))
        if trains_text_encoders(model):
            encoded = dict(zip(distinct, model.encode_prompts([texts[i] for i in distinct], known), strict=True))
            return model.collate_conditions([encoded[i] for i in prompts])
        # alone, never in a batch: neighbours can change its last bits, and after a resume it may have others
        for number in distinct:
            if keep and number in kept:
                continue
            with torch.no_grad():
                kept[number] = to_host(model.encode_prompts([texts[number]], known)[0], model.dtype)
        return model.collate_conditions([kept[number] for number in prompts])

    return encode


def to_host(condition: Condition, dtype: torch.dtype) -> Condition:
    """A condition in CPU memory, its floating-point numbers in dtype.

    Many captions take more memory than a GPU has room for: 1,000 of a T5-XXL are 4 GB in 16 bits. The denoiser casts
    what it gets to dtype, so that an earlier cast changes no bit.
    """
    held: dict[str, torch.Tensor] = {}
    for name, tensor in condition.items():
        held[name] = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
    return held
