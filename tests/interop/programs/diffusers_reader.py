"""diffusers: `load_lora_weights`, then `fuse_lora`, over pipelines in folders."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from compare import Program, Weights


class Reader(Program):
    """The diffusers of the worker's Python. Checkpoints are folders here; the checkout is not used."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout)
        os.environ["HF_HUB_OFFLINE"] = "1"

    def weights(self, layout: str, checkpoint: str, file: str | None = None) -> Weights:
        """As in the base class."""
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(checkpoint, use_safetensors=True, local_files_only=True)
        parts = {name: part for name, part in pipeline.components.items()
                 if name.startswith(("unet", "text_encoder")) and part is not None}
        if file is not None:
            place = Path(file)
            pipeline.load_lora_weights(str(place.parent), weight_name=place.name)
            pipeline.fuse_lora(components=list(parts))
            pipeline.unload_lora_weights()
        found: dict[str, torch.Tensor] = {}
        for name, part in parts.items():
            found |= {f"{name}.{key}": tensor.detach() for key, tensor in part.state_dict().items()}
        return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}
