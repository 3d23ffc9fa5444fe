"""Export of the trained model as a diffusers folder with a manifest, and sheets of sample pictures."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from dbrun.embedded.making.architecture import build_scheduler
from dbrun.embedded.making.brush import SIDE

LICENCE = "Apache-2.0"
SAMPLING = {"steps": 10, "guidance": 4.0}
"""Sampler settings for the manifest; recipes without settings of their own use them."""
UPSCALE_FACTOR = 3
"""Factor by which sample pictures are enlarged on a sheet."""
PROMPTS = (
    "a photo of a dog",
    "a photo of sks dog",
    "a photo of a brown dog on the beach",
    "a white spotted dog sitting in the snow",
    "a black dog running in the city",
    "a photo of a gray dog wearing a red hat",
    "a photo of a cat",
    "an orange cat sitting in a room",
    "a white cat on the grass",
    "a gray rabbit in the forest",
    "a photo of a white rabbit on the moon",
    "a brown rabbit running in the desert",
    "a blue bird flying at night",
    "a photo of a red bird in the snow",
    "an orange striped fish under water",
    "a purple fish on the beach",
    "a red car in the city",
    "a yellow car in the desert",
    "a blue house on the grass",
    "a pink house in the snow",
    "a green tree in the forest",
    "a photo of a tree on the moon",
    "a white dog wearing a blue collar at night",
    "a photo of a pink cat wearing a hat",
)


@dataclass(frozen=True)
class TrainedComponents:
    """Trained networks. images: training pictures that the denoiser has seen; seconds: its training time."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    images: int = 0
    seconds: float = 0.0

    def pipeline(self) -> StableDiffusionPipeline:
        """Stable Diffusion pipeline of the networks."""
        pipeline = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def export(
    parts: TrainedComponents, target: Path, command: str, figures: Mapping[str, float], start: Path | None = None
) -> None:
    """Write the model in half precision to `target`, replacing an older one. start: the model it went on from."""
    # beside the target: a crash while writing leaves the older model whole
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    # copies: `half` works in place, and training may go on
    halved = replace(
        parts,
        vae=copy.deepcopy(parts.vae).half(),
        unet=copy.deepcopy(parts.unet).half(),
        text_encoder=copy.deepcopy(parts.text_encoder).half(),
    )
    halved.pipeline().save_pretrained(part, safe_serialization=True)
    remove_local_paths(part)
    write_manifest(part, command, figures, start)
    replace_folder(part, target)


def replace_folder(part: Path, target: Path) -> None:
    """Rename the complete folder `part` to target; an older target is removed only once the new one stands."""
    old = target.with_suffix(".old")
    if target.exists():
        # not without a target: after a crash between the two renames the older one stands only here
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    part.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def remove_local_paths(folder: Path) -> None:
    """Remove the paths of the training machine from the configs, and make all files readable for everybody."""
    for path in folder.rglob("*"):
        if path.name.endswith("config.json") or path.name == "model_index.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(0o644)


def write_manifest(folder: Path, command: str, figures: Mapping[str, float], start: Path | None = None,
                   sampling: Mapping[str, float] | None = SAMPLING) -> None:
    """Write manifest.json: every file's sha256, how the model was made, and the start model's manifest.

    sampling: settings for recipes without settings of their own; None for a model that draws nothing.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest: dict[str, object] = {
        "format_version": 1,
        "licence": LICENCE,
        "command": command,
        "figures": dict(figures),
    }
    if sampling is not None:
        manifest["sampling"] = dict(sampling)
    manifest["files"] = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    if start is not None:
        manifest["start"] = json.loads((start / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample(parts: TrainedComponents, prompts: Sequence[str], steps: int = 10,
           guidance: float = 4.0) -> list[Image.Image]:
    """Sample one 64×64 picture per prompt; the seed is the prompt's index."""
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    pipeline = parts.pipeline()
    output = pipeline(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=generators,
        height=SIDE,
        width=SIDE,
    )
    pictures: list[Image.Image] = output.images
    return pictures


def sample_grid(parts: TrainedComponents, path: Path, prompts: Sequence[str] = PROMPTS, columns: int = 8) -> None:
    """Save a sheet of enlarged sample pictures, one per prompt, in rows of `columns`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cell = SIDE * UPSCALE_FACTOR
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell))
    for index, picture in enumerate(sample(parts, prompts)):
        row, column = divmod(index, columns)
        enlarged = picture.resize((cell, cell), Image.Resampling.BICUBIC)
        sheet.paste(enlarged, (column * cell, row * cell))
    sheet.save(path)
