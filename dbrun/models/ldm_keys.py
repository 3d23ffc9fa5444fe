"""Tensor names of a checkpoint of one file of Stable Diffusion or SDXL, translated from diffusers' names.

The layout is that of the original releases (Rombach et al. 2021, github.com/CompVis/latent-diffusion, and
github.com/Stability-AI/stablediffusion), which ComfyUI, A1111 and diffusers' `from_single_file` read: the UNet's blocks
are numbered through over all levels. The text encoder of 1.x keeps transformers' names, that of 2.x has OpenCLIP's, and
SDXL (github.com/Stability-AI/generative-models) has one of each kind.
Every `*_KEYS` table maps a prefix of diffusers to the original one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dbrun.models.ldm_layouts import UNET, V_PREDICTION_MARK, VAE, ZERO_SNR_MARK, Layout, TextNames

if TYPE_CHECKING:
    from torch import Tensor

UNET_KEYS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
             "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
             "mid_block.resnets.1": "middle_block.2"}
RESNET_KEYS = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
               "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
VAE_KEYS = {"mid_block.resnets.0": "mid.block_1", "mid_block.attentions.0": "mid.attn_1", "mid_block.resnets.1":
            "mid.block_2", "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "downsamplers.0": "downsample",
            "upsamplers.0": "upsample", "resnets": "block", "down_blocks": "down", "up_blocks": "up"}
VAE_ATTENTION_KEYS = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TEXT_KEYS = {"embeddings.token_embedding.weight": "token_embedding.weight", "embeddings.position_embedding.weight":
             "positional_embedding", "final_layer_norm": "ln_final"}
TEXT_LAYER_KEYS = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                   "self_attn": "attn"}
MAX_TEXT_LAYERS = 23
"""Most layers of a 2.x text encoder that every reader loads; the release has a 24th, which the model does not use."""


def ldm_state_dict(pipeline: Any, layout: Layout) -> dict[str, Tensor]:
    """Tensors of a pipeline by original names: float32 on the CPU, sorted, weights [out, in …]."""
    unet, vae = pipeline.unet, pipeline.vae
    tensors = {UNET + unet_key(name, unet.config): tensor for name, tensor in unet.state_dict().items()}
    levels = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        # the original autoencoder's attention uses 1×1 convolutions where diffusers has linear layers
        if _is_matrix(name, tensor):
            tensor = tensor[..., None, None]
        tensors[VAE + _vae_key(name, levels)] = tensor
    for component, names in layout.text_encoders.items():
        tensors |= _text_state_dict(getattr(pipeline, component).state_dict(), names)
    # sorted, so that equal weights give equal bytes
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in sorted(tensors.items())}


def process_marks(scheduler: Mapping[str, Any]) -> dict[str, Tensor]:
    """Marks of v-prediction and zero terminal SNR, without which readers take a file for epsilon.

    scheduler: config of the scheduler that samples with these weights.
    """
    import torch

    marks: dict[str, Tensor] = {}
    if scheduler.get("prediction_type") == "v_prediction":
        marks[V_PREDICTION_MARK] = torch.zeros(0)
    if scheduler.get("rescale_betas_zero_snr"):
        marks[ZERO_SNR_MARK] = torch.zeros(0)
    return marks


def _text_state_dict(state: Mapping[str, Tensor], names: TextNames) -> dict[str, Tensor]:
    """Tensors of a text encoder by original names."""
    # older transformers put `text_model.` before every name
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    if names.open_clip:
        tensors = _open_clip_state_dict(tensors)
    return {names.prefix + name: tensor for name, tensor in tensors.items()}


def _open_clip_state_dict(text_tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Text encoder in OpenCLIP's layout, where query, key and value projection [3D, D] are one matrix."""
    import torch

    tensors = {}
    for name, tensor in text_tensors.items():
        if name == "text_projection.weight":
            # a parameter [in, out] there, the weight [out, in] of a linear layer here
            tensors["text_projection"] = tensor.T
        elif ".q_proj." in name:
            # torch's MultiheadAttention expects the order q, k, v
            projections = [text_tensors[name.replace(".q_proj.", f".{kind}_proj.")] for kind in "qkv"]
            tensors[_open_clip_key(name.replace("q_proj.", "in_proj_"))] = torch.cat(projections)
        elif not re.search(r"\.[kv]_proj\.", name):
            tensors[_open_clip_key(name)] = tensor
    return tensors


def _open_clip_key(name: str) -> str:
    layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", name)
    if layer:
        return f"transformer.resblocks.{layer[1]}.{_replace_prefix(layer[2], TEXT_LAYER_KEYS)}"
    return _replace_prefix(name, TEXT_KEYS)


def unet_key(name: str, config: Mapping[str, Any]) -> str:
    """Original name of one of the UNet's tensors. name: diffusers' own; config: the UNet's."""
    layers = int(config["layers_per_block"])
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if match:
        side, level, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        return _unet_block_key(side, level, kind, place, rest, layers, config)
    for diffusers, ldm in UNET_KEYS.items():
        if name.startswith(f"{diffusers}."):
            inner = name.removeprefix(f"{diffusers}.")
            if "resnets" in diffusers:
                inner = _replace_prefix(inner, RESNET_KEYS)
            return f"{ldm}.{inner}"
    return name


def _unet_block_key(side: str, level: int, kind: str, place: int, rest: str, layers: int,
                    config: Mapping[str, Any]) -> str:
    """Original name of a layer inside a level; place: the block's index in the level; rest: the name after it."""
    # a level has `layers` blocks and a downsampler on the way down, and `layers` + 1 blocks on the way up
    first = level * (layers + 1)
    if kind == "downsamplers":
        layer = rest.replace("conv.", "op.", 1)
        return f"input_blocks.{first + layers + 1}.0.{layer}"
    if kind == "upsamplers":
        # it belongs to the level's last block, behind that one's resnet and attention, if it has attention
        position = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{first + layers}.{position}.{rest}"
    if side == "down":
        # input block 0 is conv_in
        block = f"input_blocks.{first + 1 + place}"
    else:
        block = f"output_blocks.{first + place}"
    if kind == "resnets":
        return f"{block}.0.{_replace_prefix(rest, RESNET_KEYS)}"
    return f"{block}.1.{rest}"


def _vae_key(name: str, levels: int) -> str:
    # the original numbers the decoder's levels from the picture inwards, diffusers from the latents outwards
    key = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)
    # the order of the table counts: `mid_block.resnets.0` must be replaced before `resnets`
    for diffusers, ldm in VAE_KEYS.items():
        key = key.replace(diffusers, ldm)
    front, attention, inner = key.partition("mid.attn_1.")
    if not attention:
        return key
    return f"{front}{attention}{_replace_prefix(inner, VAE_ATTENTION_KEYS)}"


def _replace_prefix(name: str, table: Mapping[str, str]) -> str:
    """Name with its prefix replaced by the table's; unchanged where no prefix matches."""
    for diffusers, ldm in table.items():
        if name == diffusers or name.startswith(f"{diffusers}."):
            return ldm + name.removeprefix(diffusers)
    return name


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return ".attentions." in name and tensor.dim() == 2
