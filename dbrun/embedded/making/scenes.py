"""The training pictures: scenes drawn once by a few processes, encoded once by the finished autoencoder."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL

from dbrun.embedded.making.brush import SIDE
from dbrun.embedded.making.world import draw_scene, random_scene

CHUNK = 500
Pictures = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.float16]


def load_or_draw_pictures(path: Path, count: int, workers: int) -> Pictures:
    """Scenes 0 … count-1 as one uint8 array [N, 64, 64, 3] on disk; drawn when it is not there yet."""
    if not path.exists():
        part = path.with_suffix(".part")
        shape = (count, SIDE, SIDE, 3)
        pictures = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        spans = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        # no process of its own is worth its start for the few scenes of a test
        with get_context("spawn").Pool(workers) if count > CHUNK else nullcontext() as pool:
            for (start, end), chunk in zip(spans, (pool.imap if pool else map)(_draw_chunk, spans), strict=True):
                pictures[start:end] = chunk
        pictures.flush()
        part.rename(path)
    stored: Pictures = np.load(path, mmap_mode="r")
    if len(stored) < count:
        raise ValueError(f"{path} holds {len(stored)} scenes, not {count} → remove it, or ask for fewer")
    return stored[:count]


def _draw_chunk(span: tuple[int, int]) -> Pictures:
    return np.stack([np.asarray(draw_scene(random_scene(seed))) for seed in range(*span)])


def as_tensor(pictures: Pictures) -> torch.Tensor:
    """Pictures [B, 64, 64, 3] uint8 as a float tensor [B, 3, 64, 64] in -1 … 1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def load_or_encode_latents(path: Path, pictures: Pictures, vae: AutoencoderKL, device: torch.device) -> Latents:
    """The scaled latent means [N, 8, 16, 16] of all pictures, on disk; encoded when not there yet."""
    if not path.exists():
        part = path.with_suffix(".part")
        means = latent_means(vae, pictures, device) * vae.config.scaling_factor
        with part.open("wb") as file:
            np.save(file, means.half().cpu().numpy())
        part.rename(path)
    stored: Latents = np.load(path, mmap_mode="r")
    return stored


@torch.no_grad()
def latent_means(vae: AutoencoderKL, pictures: Pictures, device: torch.device) -> torch.Tensor:
    """The means of the latent distributions [N, 8, 16, 16], unscaled, float32."""
    batches: Iterable[Pictures] = (pictures[start : start + 64] for start in range(0, len(pictures), 64))
    means = [vae.encode(as_tensor(batch).to(device)).latent_dist.mean.float() for batch in batches]
    return torch.cat(means)
