"""Pre-train the embedded base model: `python -m dbrun.embedded.making.pretrain --minutes 120 --out FOLDER`.

The autoencoder comes first, then the denoiser with the text encoder, last the decoder once more. The same
command resumes from FOLDER's checkpoints; `--finish MINUTES` lets the denoiser's learning rate fall now.
`--start MODEL` goes on from an exported model: its autoencoder stays, and all the time is the denoiser's.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from dbrun.embedded.making.autoencoder import finetune_decoder, psnr, train_autoencoder
from dbrun.embedded.making.denoiser import train_denoiser
from dbrun.embedded.making.export import export
from dbrun.embedded.making.names import separate_identifiers
from dbrun.embedded.making.scenes import load_or_draw_pictures, load_or_encode_latents
from dbrun.embedded.making.sitting import LOG, PretrainSettings, add_settings, begin_sitting

AUTOENCODER_SHARE = 0.2
"""Share of the minutes for the first phase, the autoencoder."""
DECODER_SHARE = 0.07
"""Share of the minutes for the last phase, the decoder alone."""


def pretrain(plan: PretrainSettings, command: str) -> Path:
    """Train every phase, resuming from checkpoints, and return the folder of the exported model.

    command: the command line that the manifest records.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    autoencoder_share, decoder_share = AUTOENCODER_SHARE, DECODER_SHARE
    # the start model's autoencoder is kept: another one would make its denoiser's latents meaningless
    if plan.start:
        autoencoder_share = decoder_share = 0.0
    pictures = load_or_draw_pictures(plan.out / "pictures.npy", plan.scenes, plan.workers)
    vae = train_autoencoder(plan, pictures, plan.minutes * autoencoder_share)
    latents = load_or_encode_latents(plan.out / "latents.npy", pictures, vae, plan.device)
    parts = train_denoiser(plan, vae, latents, plan.minutes * (1 - autoencoder_share - decoder_share))
    if decoder_share:
        vae = finetune_decoder(plan, vae, pictures, latents, plan.minutes * decoder_share)
    # last, on the final weights: any training after it would undo it
    separate_identifiers(parts.unet, parts.text_encoder, parts.tokenizer, plan.seed)
    target = plan.out / "weights"
    figures = {
        "images": parts.images,
        "denoiser_minutes": round(parts.seconds / 60, 1),
        "autoencoder_psnr_db": round(psnr(vae, pictures[:64], plan.device), 2),
    }
    export(replace(parts, vae=vae), target, command, figures, plan.start)
    LOG.info("exported to %s", target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m dbrun.embedded.making.pretrain", description=__doc__)
    add_settings(parser, batch=32, batch_of="pictures")
    parser.add_argument("--start", type=Path, metavar="MODEL", help="an exported model to go on from")
    parser.add_argument("--scenes", type=int, default=80_000)
    options = parser.parse_args(arguments)
    plan = begin_sitting(options, options.scenes, options.start)
    if arguments is None:
        arguments = sys.argv[1:]
    pretrain(plan, manifest_command(arguments))


def manifest_command(arguments: Sequence[str], module: str = "pretrain") -> str:
    """Command line for the manifest, with placeholders for this machine's folders, which change no weight."""
    placeholders = {"--out": "FOLDER", "--start": "MODEL"}
    shown = [placeholders.get(before, word) for before, word in pairwise(("", *arguments))]
    return shlex.join(["python", "-m", f"dbrun.embedded.making.{module}", *shown])


if __name__ == "__main__":
    main()
