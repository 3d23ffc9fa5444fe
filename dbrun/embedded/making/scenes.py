"""Training pictures and latents on disk: drawn once by several processes, encoded once by the autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dbrun.embedded.making.brush import SIDE
from dbrun.embedded.making.world import draw_scene, random_scene

CHUNK = 500
"""Scenes that a process draws at a time."""
Pictures = npt.NDArray[np.uint8]
"""Pictures [N, 64, 64, 3], 0 to 255."""
Latents = npt.NDArray[np.float16]
"""Means of the latents [N, 8, 16, 16]."""


def draw_random_scene(seed: int) -> Image.Image:
    """Draw the scene of a seed, 64×64 RGB."""
    return draw_scene(random_scene(seed))


def load_or_draw_pictures(
    path: Path, count: int, workers: int, draw: Callable[[int], Image.Image] = draw_random_scene
) -> Pictures:
    """Pictures uint8 [count, 64, 64, 3] of the numbers 0 … count-1 as a memory map; drawn where path does not exist.

    draw: picture of a number; a function of a module, since other processes call it. Raises ValueError where path holds
    fewer.
    """
    if not path.exists():
        part = path.with_suffix(".part")
        shape = (count, SIDE, SIDE, 3)
        pictures = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        spans = [(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        for (start, end), chunk in zip(spans, _draw_chunks(spans, workers, draw), strict=True):
            pictures[start:end] = chunk
        pictures.flush()
        part.rename(path)
    stored: Pictures = np.load(path, mmap_mode="r")
    if len(stored) < count:
        raise ValueError(f"{path} holds {len(stored)} scenes, not {count} → remove it, or ask for fewer")
    return stored[:count]


def _draw_chunks(
    spans: list[tuple[int, int]], workers: int, draw: Callable[[int], Image.Image]
) -> Iterator[Pictures]:
    """Draw the pictures of every span (first, one past the last), in order."""
    draw_span = partial(_draw_chunk, draw)
    # starting a process takes longer than drawing the few scenes of a test
    if len(spans) <= 1:
        yield from map(draw_span, spans)
        return
    # spawn: a forked child of a process with torch's threads may hang
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(draw_span, spans)


def _draw_chunk(draw: Callable[[int], Image.Image], span: tuple[int, int]) -> Pictures:
    return np.stack([np.asarray(draw(number)) for number in range(*span)])


def as_tensor(pictures: Pictures) -> torch.Tensor:
    """Convert pictures uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def load_or_encode_latents(path: Path, pictures: Pictures, vae: AutoencoderKL, device: torch.device) -> Latents:
    """Scaled latent means float16 [N, 8, 16, 16] of all pictures as a memory map; encoded where path does not exist."""
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
    """Means of q(z | pictures), unscaled float32 [N, 8, 16, 16]."""
    batches: Iterable[Pictures] = (pictures[start : start + 64] for start in range(0, len(pictures), 64))
    means = [vae.encode(as_tensor(batch).to(device)).latent_dist.mean.float() for batch in batches]
    return torch.cat(means)
