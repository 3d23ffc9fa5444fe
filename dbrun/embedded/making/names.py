"""How does a word without a meaning stay a word of its own, so that a recipe can give it one?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dbrun.embedded.making.captions import NAMES

LENGTH = 8.0
"""Length of a name's embedding, in those of the words with a meaning."""
MEANT = ("dog", "cat", "red")
"""Words whose embeddings say how long one is."""
CHOICES = 160
"""Directions that are tried for each name."""
NEUTRAL = 0.05
"""How much a name may change what is drawn; "cat" for "dog" changes 0.4."""
SAYINGS = ("a photo of {} dog", "a photo of {} car", "an {} picture of a house in the snow")
"""Where a name may stand in a prompt."""
TIMES = (950, 800, 600)
"""Timesteps at which it is decided what is drawn."""


@torch.no_grad()
def set_apart(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0
) -> None:
    """Give every name a long embedding: of many directions the one that is read best and drawn as no name would be.

    Training teaches the text encoder to overlook the names: "sks dog" and "a dog" then differ by 1 %, and an adapter
    of the denoiser cannot tell them apart. Most long embeddings are overlooked too, and some turn a dog into a fish.
    """
    unnamed = _read(text_encoder, tokenizer, "a")
    drawn = _drawn(unet, unnamed)
    for number, name in enumerate(NAMES):
        tried = _directions(text_encoder, tokenizer, seed + number, CHOICES) * LENGTH
        readings = []
        for embedding in tried:
            _embed(text_encoder, tokenizer, name, embedding)
            readings.append(_read(text_encoder, tokenizer, name))
        effects = [float(_change(reading, unnamed).min()) for reading in readings]
        _embed(text_encoder, tokenizer, name, tried[_best(unet, readings, effects, drawn)])


@torch.no_grad()
def make_ordinary(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0) -> None:
    """Give every name an embedding as long as a word's, for training to go on from."""
    for number, name in enumerate(NAMES):
        _embed(text_encoder, tokenizer, name, _directions(text_encoder, tokenizer, seed + number, 1)[0])


def _best(unet: UNet2DConditionModel, readings: Sequence[Tensor], effects: Sequence[float], drawn: Tensor) -> int:
    """The place of the largest effect that is drawn neutrally; of the most neutral where none is."""
    changes = {}
    for place in sorted(range(len(effects)), key=lambda place: -effects[place]):
        changes[place] = float(_change(_drawn(unet, readings[place]), drawn).max())
        if changes[place] <= NEUTRAL:
            return place
    return min(changes, key=lambda place: changes[place])


def _directions(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int, count: int) -> Tensor:
    """Random embeddings [count, D] of a word's usual length."""
    table = text_encoder.get_input_embeddings().weight
    usual = table[[tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in MEANT]].norm(dim=1).mean()
    drawn = torch.randn(count, table.shape[1], generator=torch.Generator().manual_seed(seed)).to(table)
    directions: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * usual
    return directions


def _embed(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, name: str, embedding: Tensor) -> None:
    text_encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(f"{name}</w>")] = embedding


def _read(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, word: str) -> Tensor:
    """The text encoder's states [3, L, D] of the sayings with this word."""
    prompts = [saying.format(word) for saying in SAYINGS]
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt")["input_ids"]
    states: Tensor = text_encoder(ids.to(text_encoder.device))[0]
    return states


def _drawn(unet: UNet2DConditionModel, states: Tensor) -> Tensor:
    """What the denoiser says of one noise at each time, for each prompt's states: [3, 3·C·h·w]."""
    side, channels, times = unet.config.sample_size, unet.config.in_channels, torch.tensor(TIMES, device=states.device)
    noise = torch.randn(len(TIMES), channels, side, side, generator=torch.Generator().manual_seed(0)).to(states)
    said = [unet(noise, times, one.expand(len(TIMES), -1, -1), return_dict=False)[0] for one in states]
    return torch.stack(said).flatten(1)


def _change(states: Tensor, before: Tensor) -> Tensor:
    """The relative change [B] of each row."""
    change: Tensor = (states - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    return change
