"""How does a word without a meaning stay a word of its own, so that a recipe can give it one?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dbrun.embedded.making.captions import IDENTIFIERS

NAME_NORM = 8.0
"""Length of a name's embedding, in those of the words with a meaning."""
REFERENCE_WORDS = ("dog", "cat", "red")
"""Words whose embeddings say how long one is."""
CANDIDATES = 160
"""Directions that are tried for each name."""
MAX_CHANGE = 0.05
"""How much a name may change what is drawn; "cat" for "dog" changes 0.4."""
PROBE_PROMPTS = ("a photo of {} dog", "a photo of {} car", "an {} picture of a house in the snow")
"""Where a name may stand in a prompt."""
PROBE_TIMESTEPS = (950, 800, 600)
"""Timesteps at which it is decided what is drawn."""


@torch.no_grad()
def separate_identifiers(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0
) -> None:
    """Give every name a long embedding: of many directions the one that is read best and drawn as no name would be.

    Training teaches the text encoder to overlook the names: "sks dog" and "a dog" then differ by 1 %, and an adapter
    of the denoiser cannot tell them apart. Most long embeddings are overlooked too, and some turn a dog into a fish.
    """
    unnamed = _text_states(text_encoder, tokenizer, "a")
    drawn = _predictions(unet, unnamed)
    for number, name in enumerate(IDENTIFIERS):
        tried = _random_embeddings(text_encoder, tokenizer, seed + number, CANDIDATES) * NAME_NORM
        readings = []
        for embedding in tried:
            _set_embedding(text_encoder, tokenizer, name, embedding)
            readings.append(_text_states(text_encoder, tokenizer, name))
        effects = [float(_relative_change(reading, unnamed).min()) for reading in readings]
        _set_embedding(text_encoder, tokenizer, name, tried[_best_candidate(unet, readings, effects, drawn)])


@torch.no_grad()
def reset_identifiers(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0) -> None:
    """Give every name an embedding as long as a word's, for training to go on from."""
    for number, name in enumerate(IDENTIFIERS):
        _set_embedding(text_encoder, tokenizer, name, _random_embeddings(text_encoder, tokenizer, seed + number, 1)[0])


def _best_candidate(unet: UNet2DConditionModel, readings: Sequence[Tensor], effects: Sequence[float],
                    drawn: Tensor) -> int:
    """The place of the largest effect that is drawn neutrally; of the most neutral where none is."""
    changes = {}
    for place in sorted(range(len(effects)), key=lambda place: -effects[place]):
        changes[place] = float(_relative_change(_predictions(unet, readings[place]), drawn).max())
        if changes[place] <= MAX_CHANGE:
            return place
    return min(changes, key=lambda place: changes[place])


def _random_embeddings(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int, count: int) -> Tensor:
    """Random embeddings [count, D] of a word's usual length."""
    table = text_encoder.get_input_embeddings().weight
    usual = table[[tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in REFERENCE_WORDS]].norm(dim=1).mean()
    drawn = torch.randn(count, table.shape[1], generator=torch.Generator().manual_seed(seed)).to(table)
    directions: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * usual
    return directions


def _set_embedding(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, name: str, embedding: Tensor) -> None:
    text_encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(f"{name}</w>")] = embedding


def _text_states(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, word: str) -> Tensor:
    """The text encoder's states [3, L, D] of the sayings with this word."""
    prompts = [saying.format(word) for saying in PROBE_PROMPTS]
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt")["input_ids"]
    states: Tensor = text_encoder(ids.to(text_encoder.device))[0]
    return states


def _predictions(unet: UNet2DConditionModel, states: Tensor) -> Tensor:
    """What the denoiser says of one noise at each time, for each prompt's states: [3, 3·C·h·w]."""
    side, channels = unet.config.sample_size, unet.config.in_channels
    times = torch.tensor(PROBE_TIMESTEPS, device=states.device)
    noise = torch.randn(len(PROBE_TIMESTEPS), channels, side, side,
                        generator=torch.Generator().manual_seed(0)).to(states)
    said = [unet(noise, times, one.expand(len(PROBE_TIMESTEPS), -1, -1), return_dict=False)[0] for one in states]
    return torch.stack(said).flatten(1)


def _relative_change(states: Tensor, before: Tensor) -> Tensor:
    """The relative change [B] of each row."""
    change: Tensor = (states - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    return change
