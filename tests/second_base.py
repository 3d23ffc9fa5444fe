"""A tiny base of Stable Diffusion 2.x: linear projections, an OpenCLIP text encoder."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def as_second(folder: Path, layers: int = 3) -> Path:
    """Rewrite a tiny base of 1.x with what 2.1's configs say otherwise of UNet and text encoder, at a small size."""
    parts = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts["unet"] = UNet2DConditionModel.from_config({
            **parts["unet"].config, "attention_head_dim": [2, 4], "use_linear_projection": True,
            "upcast_attention": True})
        parts["text_encoder"] = CLIPTextModel(CLIPTextConfig.from_dict({
            **parts["text_encoder"].config.to_dict(), "hidden_act": "gelu", "projection_dim": 16,
            "num_hidden_layers": layers, "num_attention_heads": 2}))
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    return folder
