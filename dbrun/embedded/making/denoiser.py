"""Joint training of the denoiser and the text encoder, with new random captions at every step."""

from __future__ import annotations

import copy
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from dbrun.embedded.making.architecture import Denoiser
from dbrun.embedded.making.captions import caption, caption_words
from dbrun.embedded.making.course import Phase
from dbrun.embedded.making.export import TrainedComponents, sample_grid
from dbrun.embedded.making.names import reset_identifiers
from dbrun.embedded.making.objectives import TIMESTEPS, alpha_bar_schedule, noisy_and_velocity, v_loss
from dbrun.embedded.making.scenes import Latents
from dbrun.embedded.making.sitting import PretrainSettings, train_phase
from dbrun.embedded.making.tokenizer import build_tokenizer
from dbrun.embedded.making.world import Scene, random_scene

CLASS_WEIGHTS = {"dog": 3.0, "cat": 1.5, "bird": 1.5, "rabbit": 1.5}
"""Class → how many times as often it is drawn; recipes teach dogs, and animals are harder to draw than things."""
HAT_WEIGHT = 1.5
"""Factor for scenes with a hat, which are rare."""


def train_denoiser(plan: PretrainSettings, vae: AutoencoderKL, latents: Latents, minutes: float) -> TrainedComponents:
    """Train UNet and text encoder on latents [N, 8, 16, 16], resuming the checkpoint; returns them with vae."""
    tokenizer = build_tokenizer(caption_words())
    torch.manual_seed(plan.seed)
    network = Denoiser(plan.sizes, tokenizer)
    if plan.start is not None:
        load_start_weights(network, tokenizer, plan.start)
    network = network.to(plan.device)
    phase = Phase(network, copy.deepcopy(network), plan.out / "denoiser.ckpt")
    scenes = [random_scene(seed) for seed in range(len(latents))]
    weights = torch.tensor([_sampling_weight(scene) for scene in scenes])
    alpha_bars = alpha_bar_schedule()

    def loss_at(step: int) -> Tensor:
        # all randomness is seeded by the step: a resumed run sees the same batches, times, noise and captions
        generator = plan.generator("denoiser", step)
        chosen = torch.multinomial(weights, plan.batch, replacement=True, generator=generator).sort().values
        t = torch.randint(TIMESTEPS, (plan.batch,), generator=generator)
        rng = Random(f"{plan.seed} captions {step}")
        texts = [caption(scenes[index], rng) for index in chosen.tolist()]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]
        x0 = torch.from_numpy(latents[chosen.numpy()]).float()
        noise = torch.randn(x0.shape, generator=generator)
        alpha_bar = alpha_bars[t].to(plan.device)
        x_t, v = noisy_and_velocity(x0.to(plan.device), noise.to(plan.device), alpha_bar)
        # the loss itself stays in float32
        with plan.autocast():
            states = network.text_encoder(ids.to(plan.device))[0]
            prediction = network.unet(x_t, t.to(plan.device), states, return_dict=False)[0]
        return v_loss(prediction, v)

    def components() -> TrainedComponents:
        images, average = phase.progress.step * plan.batch, phase.average
        return TrainedComponents(vae, average.unet, average.text_encoder, tokenizer, images, phase.progress.seconds)

    def report() -> None:
        trained = components()
        sample_grid(trained, plan.out / "grids" / f"{trained.images:08d}.png")

    train_phase(phase, loss_at, minutes, plan.finish, report)
    return components()


def _sampling_weight(scene: Scene) -> float:
    """Relative frequency of a scene in the batches."""
    weight = CLASS_WEIGHTS.get(scene.kind, 1.0)
    if scene.hat:
        weight *= HAT_WEIGHT
    return weight


def load_start_weights(network: Denoiser, tokenizer: CLIPTokenizer, model: Path) -> None:
    """Load an exported model's weights into network; the identifiers get embeddings of a word's usual length."""
    for name, part in (("unet", network.unet), ("text_encoder", network.text_encoder)):
        stored = type(part).from_pretrained(model / name, dtype=torch.float32)
        part.load_state_dict(stored.state_dict())
    # the export gave them long embeddings, which training from captions would have to undo first
    reset_identifiers(network.text_encoder, tokenizer)
