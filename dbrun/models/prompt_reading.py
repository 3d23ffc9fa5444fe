"""How CLIP text encoders read a prompt: in how many pieces, and from which layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

NUM_MARKS = 2
"""Tokens of a piece beside those of the prompt: its start and its end mark."""


@dataclass(frozen=True)
class PromptReading:
    """How a base reads prompts.

    chunks: pieces of 75 tokens that a prompt is cut into, each encoded alone between its own marks; all prompts have as
    many, so that they can be batched. clip_skip: 1 for the text encoder's last layer, 2 for the one before.
    """

    NEUTRAL: ClassVar[Mapping[str, object]] = {"chunks": 1, "clip_skip": 1}

    chunks: int = 1
    clip_skip: int = 1


USUAL_READING = PromptReading()
"""One piece, last layer: how the published models of Stable Diffusion were trained."""


def tokenize(tokenizer: Any, prompts: Sequence[str], length: int, chunks: int) -> list[Any]:
    """Tokens of each piece of the prompts: `input_ids` and `attention_mask`, int64 [B, length]; one entry per piece.

    A prompt is cut after every length - 2 tokens, also within a word; what is beyond the last piece is left out.
    """
    if chunks == 1:
        return [tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True,
                          return_tensors="pt")]
    rows = tokenizer(list(prompts), add_special_tokens=False, truncation=False).input_ids
    room = length - NUM_MARKS
    pieces: list[Any] = []
    for number in range(chunks):
        # as ComfyUI and A1111 write each piece; a prompt that is over earlier has a piece of padding alone
        marked = [[tokenizer.bos_token_id, *row[number * room:(number + 1) * room], tokenizer.eos_token_id]
                  for row in rows]
        pieces.append(tokenizer.pad({"input_ids": marked}, padding="max_length", max_length=length,
                                    return_tensors="pt"))
    return pieces


def read_state(text_encoder: Any, input_ids: Any, attention_mask: Any, clip_skip: int) -> Any:
    """State of a CLIP text encoder [B, L, D] after its last layer, or `clip_skip` - 1 layers before, normalised."""
    if clip_skip == 1:
        return text_encoder(input_ids, attention_mask=attention_mask)[0]
    states = text_encoder(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
    # the layers in between are skipped, the last norm is not: A1111, ComfyUI, kohya and diffusers agree on that
    norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
    return norm(states[-clip_skip])
