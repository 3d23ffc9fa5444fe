"""Embeddings of the identifiers: words without a meaning that the text encoder must still tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dbrun.embedded.making.captions import IDENTIFIERS

NAME_NORM = 8.0
"""Length of an identifier's embedding, as a multiple of an ordinary word's."""
REFERENCE_WORDS = ("dog", "cat", "red")
"""Words whose mean embedding length counts as ordinary."""
CANDIDATES = 160
"""Random directions that are tried for each identifier."""
MAX_CHANGE = 0.05
"""Largest relative change of the prediction by an identifier; "cat" instead of "dog" changes it by 0.4."""
PROBE_PROMPTS = ("a photo of {} dog", "a photo of {} car", "an {} picture of a house in the snow")
"""Prompts in which an identifier is tried."""
PROBE_TIMESTEPS = (950, 800, 600)
"""Timesteps with much noise, at which the content of a picture is decided."""


@torch.no_grad()
def separate_identifiers(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0
) -> None:
    """Give every identifier a long embedding that changes the text states most and the prediction hardly.

    Changes the text encoder's embedding table in place.
    """
    # training teaches the text encoder to overlook the identifiers: "sks dog" and "a dog" then differ by 1 %, and an
    # adapter of the denoiser cannot tell them apart; most long embeddings are overlooked, too, and some turn a dog
    # into a fish, so the direction is searched for
    unnamed = _text_states(text_encoder, tokenizer, "a")
    drawn = _predictions(unet, unnamed)
    for number, name in enumerate(IDENTIFIERS):
        candidates = _random_embeddings(text_encoder, tokenizer, seed + number, CANDIDATES) * NAME_NORM
        states = []
        for embedding in candidates:
            _set_embedding(text_encoder, tokenizer, name, embedding)
            states.append(_text_states(text_encoder, tokenizer, name))
        # the weakest of the prompts counts: the identifier must work in all of them
        effects = [float(_relative_change(state, unnamed).min()) for state in states]
        best = _best_candidate(unet, states, effects, drawn)
        _set_embedding(text_encoder, tokenizer, name, candidates[best])


@torch.no_grad()
def reset_identifiers(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0) -> None:
    """Give every identifier a random embedding of an ordinary word's length, in place, before more training."""
    for number, name in enumerate(IDENTIFIERS):
        (embedding,) = _random_embeddings(text_encoder, tokenizer, seed + number, 1)
        _set_embedding(text_encoder, tokenizer, name, embedding)


def _best_candidate(unet: UNet2DConditionModel, states: Sequence[Tensor], effects: Sequence[float],
                    drawn: Tensor) -> int:
    """Index of the candidate with the largest effect on the text states that leaves the prediction as it is.

    Where no candidate does, the one that changes the prediction least. states: [3, L, D] of each candidate;
    drawn: the prediction without identifier.
    """
    changes = {}
    # the UNet is the slow part: try the best candidates first and stop at the first good one
    for index in sorted(range(len(effects)), key=lambda index: -effects[index]):
        prediction = _predictions(unet, states[index])
        changes[index] = float(_relative_change(prediction, drawn).max())
        if changes[index] <= MAX_CHANGE:
            return index
    return min(changes, key=lambda index: changes[index])


def _random_embeddings(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int, count: int) -> Tensor:
    """Random embeddings [count, D] of an ordinary word's length."""
    table = text_encoder.get_input_embeddings().weight
    ids = [tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in REFERENCE_WORDS]
    length = table[ids].norm(dim=1).mean()
    # drawn on the CPU: the same numbers on every device
    drawn = torch.randn(count, table.shape[1], generator=torch.Generator().manual_seed(seed)).to(table)
    embeddings: Tensor = drawn / drawn.norm(dim=1, keepdim=True) * length
    return embeddings


def _set_embedding(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, name: str, embedding: Tensor) -> None:
    """Write embedding [D] into the table's row of an identifier."""
    token_id = tokenizer.convert_tokens_to_ids(f"{name}</w>")
    text_encoder.get_input_embeddings().weight[token_id] = embedding


def _text_states(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, word: str) -> Tensor:
    """Text states [3, L, D] of the probe prompts with this word."""
    prompts = [template.format(word) for template in PROBE_PROMPTS]
    ids = tokenizer(prompts, padding="max_length", return_tensors="pt")["input_ids"]
    states: Tensor = text_encoder(ids.to(text_encoder.device))[0]
    return states


def _predictions(unet: UNet2DConditionModel, states: Tensor) -> Tensor:
    """Predictions [3, 3·C·h·w] for text states [3, L, D]: each row for the same noise at the three probe timesteps."""
    side, channels = unet.config.sample_size, unet.config.in_channels
    times = torch.tensor(PROBE_TIMESTEPS, device=states.device)
    noise = torch.randn(len(PROBE_TIMESTEPS), channels, side, side,
                        generator=torch.Generator().manual_seed(0)).to(states)
    predictions = []
    for prompt_states in states:
        batch = prompt_states.expand(len(PROBE_TIMESTEPS), -1, -1)
        predictions.append(unet(noise, times, batch, return_dict=False)[0])
    return torch.stack(predictions).flatten(1)


def _relative_change(states: Tensor, before: Tensor) -> Tensor:
    """Relative change [B] of each row of states [B, …]: ‖states - before‖ / ‖before‖."""
    change: Tensor = (states - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    return change
