"""Under which names does a Stable Diffusion checkpoint of one file hold its tensors?

The layout is that of the original releases (Rombach et al. 2021, github.com/CompVis/latent-diffusion, and
github.com/Stability-AI/stablediffusion), which ComfyUI, A1111 and diffusers' `from_single_file` read: levels are
counted through, a block a number. The text encoder of 1.x has transformers' names, that of 2.x OpenCLIP's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

UNET_KEYS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
             "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
             "mid_block.resnets.1": "middle_block.2"}
RESNET_KEYS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
               "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
VAE_KEYS = {"mid_block.resnets.0": "mid.block_1", "mid_block.attentions.0": "mid.attn_1", "mid_block.resnets.1":
            "mid.block_2", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "downsamplers.0": "downsample",
            "upsamplers.0": "upsample", "resnets": "block", "down_blocks": "down", "up_blocks": "up"}
VAE_ATTENTION_KEYS = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP_PREFIX, OPEN_CLIP_PREFIX = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
TEXT_KEYS = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight":
             "positional_embedding", "final_layer_norm": "ln_final"}
TEXT_LAYER_KEYS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                   "self_attn": "attn"}
MAX_TEXT_LAYERS = 23
"""Layers of a 2.x text encoder that every reader takes; the release has one more that is not asked, and not read."""


def ldm_state_dict(pipeline: Any) -> dict[str, Tensor]:
    """Every tensor of a pipeline of Stable Diffusion under its original name, float32, contiguous."""
    unet, vae, text = pipeline.unet, pipeline.vae, pipeline.text_encoder
    found = {f"model.diffusion_model.{_unet_key(name, unet.config)}": tensor
             for name, tensor in unet.state_dict().items()}
    for name, tensor in vae.state_dict().items():
        new = _vae_key(name, len(vae.config.block_out_channels))
        # the autoencoder's attention was written with convolutions
        found[f"first_stage_model.{new}"] = tensor[..., None, None] if _is_matrix(name, tensor) else tensor
    words = {name.removeprefix("text_model."): tensor for name, tensor in text.state_dict().items()}
    if is_version_2(unet.config):
        found |= _open_clip_state_dict(words)
    else:
        found |= {CLIP_PREFIX + name: tensor for name, tensor in words.items()}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in sorted(found.items())}


def is_version_2(config: Mapping[str, Any]) -> bool:
    """Whether a UNet's config is one of 2.x."""
    return bool(config.get("use_linear_projection"))


def _open_clip_state_dict(words: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder as OpenCLIP has it: what query, key and value are made with is one matrix."""
    import torch

    found = {}
    for name, tensor in words.items():
        if ".q_proj." in name:
            parts = [words[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            found[_open_clip_key(name.replace("q_proj.", "in_proj_"))] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            found[_open_clip_key(name)] = tensor
    return found


def _open_clip_key(name: str) -> str:
    layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name)
    if layer:
        return f"{OPEN_CLIP_PREFIX}transformer.resblocks.{layer[1]}.{_replace_prefix(layer[2], TEXT_LAYER_KEYS)}"
    return OPEN_CLIP_PREFIX + _replace_prefix(name, TEXT_KEYS)


def _unet_key(name: str, config: Mapping[str, Any]) -> str:
    layers = int(config["layers_per_block"])
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
        side, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        return _unet_block_key(side, level, kind, place, rest, layers, config)
    for diffusers, ldm in UNET_KEYS.items():
        if name.startswith(f"{diffusers}."):
            inner = name.removeprefix(f"{diffusers}.")
            return f"{ldm}.{_replace_prefix(inner, RESNET_KEYS) if 'resnets' in diffusers else inner}"
    return name


def _unet_block_key(side: str, level: int, kind: str, place: int, rest: str, layers: int,
                    config: Mapping[str, Any]) -> str:
    """A layer of a level: going down a level has `layers` blocks and a downsampler, going up one block more."""
    first = level * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv.', 'op.', 1)}"
    if kind == "upsamplers":
        behind = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{first + layers}.{behind}.{rest}"
    block = f"input_blocks.{first + 1 + place}" if side == "down" else f"output_blocks.{first + place}"
    return f"{block}.0.{_replace_prefix(rest, RESNET_KEYS)}" if kind == "resnets" else f"{block}.1.{rest}"


def _vae_key(name: str, levels: int) -> str:
    turned = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{levels - 1 - int(m[1])}", name)
    for diffusers, ldm in VAE_KEYS.items():
        turned = turned.replace(diffusers, ldm)
    front, attention, inner = turned.partition("mid.attn_1.")
    return f"{front}{attention}{_replace_prefix(inner, VAE_ATTENTION_KEYS)}" if attention else turned


def _replace_prefix(name: str, table: Mapping[str, str]) -> str:
    """The name with its beginning as the table has it."""
    for diffusers, ldm in table.items():
        if name == diffusers or name.startswith(f"{diffusers}."):
            return ldm + name.removeprefix(diffusers)
    return name


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return ".attentions." in name and tensor.dim() == 2
