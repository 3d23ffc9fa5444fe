"""Readers of the latents, loss masks and conditions that `preprocess` stored, and the two halves made of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dbrun.errors import StageFailed
from dbrun.images.manifest import Manifest
from dbrun.models.base import Condition
from dbrun.models.prompt_encoding import EncoderOutput, KnownOutputs
from dbrun.training.batches import PictureSet
from dbrun.training.prompt_embeds import to_host

LATENTS_FILE = "latents.safetensors"
MASKS_FILE = "masks.safetensors"
PROMPTS_FILE = "prompts.safetensors"
OUTPUTS_FILE = "encoder_outputs.safetensors"
TIME_IDS_FILE = "time_ids.safetensors"


def load_latents(folder: Path) -> Mapping[str, Tensor]:
    """Crop name → stored latents, float32 [C, h, w]; `Model.sample_x0` draws x0 from them."""
    return load_file(folder / LATENTS_FILE)


def load_loss_masks(folder: Path, unmasked: float) -> Mapping[str, Tensor]:
    """Crop name → weights of its latent pixels, float32 [h, w] in [unmasked, 1]; only of crops that have a mask.

    unmasked: the weight of a pixel that the mask hides, 0 to 1.
    """
    file = folder / MASKS_FILE
    if not file.exists():
        return {}
    return {name: unmasked + (1.0 - unmasked) * mask for name, mask in load_file(file).items()}


def load_time_ids(folder: Path) -> Mapping[str, Tensor]:
    """Crop name → sizes that the denoiser is told, float32 [6]; empty for a base that is told none."""
    file = folder / TIME_IDS_FILE
    if not file.exists():
        return {}
    return load_file(file)


def load_conditions(folder: Path, count: int) -> Sequence[Condition]:
    """The condition of each of `count` prompts, by prompt number: named tensors without a batch axis.

    Raises StageFailed unless exactly these prompts are stored.
    """
    by_prompt: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in load_file(folder / PROMPTS_FILE).items():
        number, component = name.split(".", 1)
        by_prompt[number][component] = tensor
    numbers = [f"{number:05d}" for number in range(count)]
    if set(by_prompt) != set(numbers):
        raise StageFailed(f"{PROMPTS_FILE} holds {len(by_prompt)} prompts that are not the {count} of the index",
                          fix="run again with `--force preprocess`")
    return [by_prompt[number] for number in numbers]


def load_encoder_outputs(folder: Path, texts: Sequence[str], text_encoders: Sequence[str],
                         dtype: torch.dtype) -> KnownOutputs:
    """What these text encoders give of each prompt, by its text: named tensors without a batch axis.

    dtype: of their floating-point numbers in memory. Raises StageFailed unless exactly these are stored.
    """
    stored: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in load_file(folder / OUTPUTS_FILE).items():
        output, _, own_name = name.rpartition(".")
        stored[output][own_name] = tensor
    known: dict[str, dict[str, EncoderOutput]] = {}
    for number, text in enumerate(texts):
        known[text] = {}
        for text_encoder in text_encoders:
            tensors = stored.pop(f"{number:05d}.{text_encoder}", None)
            if tensors is not None:
                known[text][text_encoder] = to_host(tensors, dtype)
    if stored or any(len(outputs) < len(text_encoders) for outputs in known.values()):
        raise StageFailed(f"{OUTPUTS_FILE} does not hold the outputs of {', '.join(text_encoders)} for the "
                          f"{len(texts)} prompts of the index", fix="run again with `--force preprocess`")
    return known


def picture_sets(manifest: Manifest, latents: Mapping[str, Tensor],
                 loss_masks: Mapping[str, Tensor], time_ids: Mapping[str, Tensor]) -> Sequence[PictureSet]:
    """The instance half, then the class half if there is one.

    latents [C, h, w], loss_masks [h, w], time_ids [6]: by crop name, as the functions above give them.
    """
    halves = [PictureSet("instance", manifest.instance, latents, loss_masks, manifest.empty_prompt, time_ids)]
    if manifest.classes:
        # no masks, even where it shows instance pictures: prior preservation needs the whole picture
        halves.append(PictureSet("class", manifest.classes, latents, time_ids=time_ids))
    return halves
