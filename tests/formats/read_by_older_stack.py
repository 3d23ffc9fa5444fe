"""Read every format with another stack of libraries, and print how far each is from the whole pipeline of `merged/`.

`PYTHON tests/formats/read_by_older_stack.py OUTPUTS BASE` prints one JSON object: format -> largest difference of the
denoiser's prediction and of the prompt's encoding, as a share of what the adapters change. It uses no dbrun.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers
from diffusers import StableDiffusionPipeline

PROMPT = "a photo of sks dog"


def load(folder: Path) -> Any:
    """The pipeline in a folder, in float32 on the CPU."""
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False,
                                                   torch_dtype=torch.float32)


def predict(pipe: Any, ids: torch.Tensor) -> torch.Tensor:
    """Encoding of a prompt and the prediction under it, joined [N]."""
    draw = torch.Generator().manual_seed(0)
    side, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    latents = torch.randn(1, channels, side, side, generator=draw)
    with torch.no_grad():
        hidden = pipe.text_encoder(ids)[0]
        prediction = pipe.unet(latents, torch.tensor(500), hidden).sample
    return torch.cat([hidden.flatten(), prediction.flatten()])


def with_lora(base: Path, outputs: Path, file: str) -> Any:
    pipe = load(base)
    pipe.load_lora_weights(str(outputs), weight_name=file)
    return pipe


def with_peft(base: Path, outputs: Path) -> Any:
    pipe = load(base)
    for component, name in (("denoiser", "unet"), ("text_encoder", "text_encoder")):
        folder = outputs / "peft" / component
        if folder.is_dir():
            setattr(pipe, name, peft.PeftModel.from_pretrained(getattr(pipe, name), folder))
    return pipe


def with_components(base: Path, outputs: Path) -> Any:
    pipe = load(base)
    for name in ("unet", "text_encoder"):
        folder = outputs / "component" / name
        if folder.is_dir():
            setattr(pipe, name, type(getattr(pipe, name)).from_pretrained(folder, torch_dtype=torch.float32))
    return pipe


def single_file(base: Path, outputs: Path) -> Any:
    return StableDiffusionPipeline.from_single_file(str(outputs / "single_file.safetensors"), config=str(base),
                                                    local_files_only=True, safety_checker=None,
                                                    torch_dtype=torch.float32)


def main(outputs: Path, base: Path, kohya: str) -> None:
    """Print the table. base: with the names that this stack reads; kohya: name of that file."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    merged = load(outputs / "merged")
    length = merged.text_encoder.config.max_position_embeddings
    ids = merged.tokenizer(PROMPT, padding="max_length", max_length=length, truncation=True,
                           return_tensors="pt").input_ids
    wanted, plain = predict(merged, ids), predict(load(base), ids)
    effect = float((wanted - plain).abs().max())
    readers: dict[str, Callable[[], Any]] = {
        "diffusers": lambda: with_lora(base, outputs, "pytorch_lora_weights.safetensors"),
        "kohya": lambda: with_lora(base, outputs, kohya), "peft": lambda: with_peft(base, outputs),
        "component": lambda: with_components(base, outputs), "single_file": lambda: single_file(base, outputs)}
    found: dict[str, object] = {"versions": [diffusers.__version__, transformers.__version__, peft.__version__],
                                "ids": ids[0, :12].tolist(), "wanted": wanted[:4].tolist(), "effect": effect}
    for name, read in readers.items():
        try:
            found[name] = float((predict(read(), ids) - wanted).abs().max()) / effect
        except Exception as error:
            found[name] = f"{type(error).__name__}: {str(error)[:200]}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
