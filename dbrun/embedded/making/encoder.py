"""Train the embedded CLIP on the drawn world: `python -m dbrun.embedded.making.encoder --minutes 45 --out FOLDER`.

Pictures learn their captions, and to be near other pictures of the same individual. The same command resumes from
FOLDER's checkpoint; `--finish MINUTES` lets the learning rate fall now.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from dbrun.embedded import weights_path
from dbrun.embedded.making.architecture import build_clip
from dbrun.embedded.making.brush import SIDE
from dbrun.embedded.making.captions import caption, caption_words
from dbrun.embedded.making.contrast import augment, caption_loss, individual_loss
from dbrun.embedded.making.course import Phase
from dbrun.embedded.making.discrimination import measure_encoder
from dbrun.embedded.making.export import remove_local_paths, replace_folder, write_manifest
from dbrun.embedded.making.individuals import Individual, random_individual
from dbrun.embedded.making.pretrain import manifest_command
from dbrun.embedded.making.scenes import Pictures, as_tensor, load_or_draw_pictures
from dbrun.embedded.making.sitting import LOG, PretrainSettings, add_settings, begin_sitting, train_phase
from dbrun.embedded.making.tokenizer import build_tokenizer
from dbrun.embedded.making.world import Scene

VIEWS = 3
"""Pictures of each individual; the last one has gone through the base's autoencoder."""
LATENT_NOISE = 0.15
"""Standard deviation of the noise on the latents of that one; latents have about 1."""
PIXEL_MEAN = PIXEL_DEVIATION = (0.5, 0.5, 0.5)
"""Of the encoder's preprocessor_config.json: pixels span -1 … 1, as in the making of the base."""


def train_encoder(plan: PretrainSettings, command: str) -> Path:
    """Train the encoder, resuming its checkpoint, and return the folder of the exported one.

    plan.scenes: number of individuals; plan.batch: individuals of a step, each in two views. command: the command line
    that the manifest records.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    drawn = load_or_draw_pictures(plan.out / "drawn.npy", plan.scenes * VIEWS, plan.workers, draw_view)
    pictures = _load_or_repaint(plan, drawn)
    individuals = [random_individual(seed) for seed in range(plan.scenes)]
    tokenizer = build_tokenizer(caption_words())
    torch.manual_seed(plan.seed)
    network = build_clip(plan.sizes, tokenizer).to(plan.device)
    phase = Phase(network, copy.deepcopy(network), plan.out / "encoder.ckpt")

    def loss_at(step: int) -> Tensor:
        # all randomness is seeded by the step: a resumed run sees the same batches, captions and noise
        generator = plan.generator("encoder", step)
        chosen = torch.randperm(plan.scenes, generator=generator)[: plan.batch]
        first = torch.randint(VIEWS, (plan.batch,), generator=generator)
        second = (first + 1 + torch.randint(VIEWS - 1, (plan.batch,), generator=generator)) % VIEWS
        numbers = torch.cat([chosen * VIEWS + first, chosen * VIEWS + second])
        rng = Random(f"{plan.seed} encoder captions {step}")
        texts = [_caption_of(individuals, number, rng) for number in numbers.tolist()]
        batch = augment(as_tensor(pictures[numbers.numpy()]), generator).to(plan.device)
        return _loss(plan, network, tokenizer, batch, texts)

    def report() -> None:
        # few pictures: a report must not take a tenth of the time
        trial = _export(phase, plan.out / "trial", command, {})
        LOG.info("encoder: %s", measure_encoder(trial, others=40, rounds=1))

    train_phase(phase, loss_at, plan.minutes, plan.finish, report)
    trial = _export(phase, plan.out / "trial", command, {})
    figures = {
        "images": phase.progress.step * 2 * plan.batch,
        "minutes": round(phase.progress.seconds / 60, 1),
        **measure_encoder(trial),
    }
    return _export(phase, plan.out / "encoder", command, figures)


def draw_view(number: int) -> Image.Image:
    """Draw a view of an individual, 64×64 RGB; number: VIEWS times the individual's seed, plus the view's number."""
    seed, view = divmod(number, VIEWS)
    individual = random_individual(seed)
    return individual.picture(individual.scene(view))


def _caption_of(individuals: list[Individual], number: int, rng: Random) -> str:
    """Random true caption of a view, never empty."""
    seed, view = divmod(number, VIEWS)
    scene: Scene = individuals[seed].scene(view)
    return caption(scene, rng) or f"a photo of a {scene.kind}"


def _loss(
    plan: PretrainSettings, network: CLIPModel, tokenizer: CLIPTokenizer, batch: Tensor, texts: list[str]
) -> Tensor:
    """Sum of both losses, a scalar. batch: two views of each individual, [2B, 3, 64, 64]; texts: their captions."""
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")["input_ids"].to(plan.device)
    with plan.autocast():
        picture_rows = network.get_image_features(batch).pooler_output
        text_rows = network.get_text_features(tokens).pooler_output
    # the losses themselves stay in float32
    seen = functional.normalize(picture_rows.float(), dim=1)
    read = functional.normalize(text_rows.float(), dim=1)
    same_text = (tokens[:, None] == tokens[None, :]).all(dim=2)
    total: Tensor = caption_loss(seen, read, same_text, network.logit_scale) + individual_loss(seen)
    return total


@torch.no_grad()
def _load_or_repaint(plan: PretrainSettings, drawn: Pictures) -> Pictures:
    """The drawn pictures with the last view of each individual as the base's autoencoder gives it; made once.

    What the encoder scores comes from that decoder.
    """
    path = plan.out / "pictures.npy"
    if not path.exists():
        vae: AutoencoderKL = AutoencoderKL.from_pretrained(weights_path() / "vae", dtype=torch.float32).to(plan.device)
        pictures = np.array(drawn)
        last_views = np.arange(VIEWS - 1, len(pictures), VIEWS)
        for start in range(0, len(last_views), 64):
            chosen = last_views[start : start + 64]
            latents = vae.encode(as_tensor(drawn[chosen]).to(plan.device)).latent_dist.mean
            noise = torch.randn(latents.shape, generator=plan.generator("repaint", start)).to(plan.device)
            decoded = vae.decode(latents + LATENT_NOISE * noise, return_dict=False)[0].clamp(-1, 1)
            pictures[chosen] = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.save(file, pictures)
        part.rename(path)
    stored: Pictures = np.load(path, mmap_mode="r")
    return stored


def _export(phase: Phase[CLIPModel], target: Path, command: str, figures: Mapping[str, float]) -> Path:
    """Write the averaged weights in half precision to `target`, in transformers' format, with a manifest."""
    part = target.with_suffix(".part")
    part.mkdir(exist_ok=True)
    # a copy: `half` works in place, and training may go on
    copy.deepcopy(phase.average).half().save_pretrained(part)
    # a fresh one: a used tokenizer saves how it padded last
    build_tokenizer(caption_words()).save_pretrained(part)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
                          image_mean=PIXEL_MEAN, image_std=PIXEL_DEVIATION).save_pretrained(part)
    remove_local_paths(part)
    write_manifest(part, command, figures, sampling=None)
    replace_folder(part, target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m dbrun.embedded.making.encoder", description=__doc__)
    add_settings(parser, batch=32, batch_of="individuals, each in two views,")
    parser.add_argument("--individuals", type=int, default=10_000)
    options = parser.parse_args(arguments)
    plan = begin_sitting(options, options.individuals)
    if arguments is None:
        arguments = sys.argv[1:]
    LOG.info("exported to %s", train_encoder(plan, manifest_command(arguments, "encoder")))


if __name__ == "__main__":
    main()
