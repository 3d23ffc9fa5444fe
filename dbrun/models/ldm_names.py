"""diffusers' names and shapes of the tensors in a checkpoint of one file: the inverse of ldm_keys; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dbrun.models.configs import read_config
from dbrun.models.ldm_keys import RESNET_KEYS, TEXT_KEYS, TEXT_LAYER_KEYS, UNET_KEYS
from dbrun.models.ldm_layouts import CHECKPOINT, UNET, Layout, TextNames
from dbrun.safetensors_header import tensor_shapes

Shapes = Mapping[str, tuple[int, ...]]


def checkpoint_shapes(folder: Path, component: str, layouts: tuple[Layout, ...]) -> Shapes:
    """diffusers' name -> shape, for a component of the base of one file in folder.

    component: the UNet or a text encoder, by its name in model_index.json; layouts: those of the base's family.
    """
    shapes, config = tensor_shapes(folder / CHECKPOINT), read_config(folder / component / "config.json")
    found: dict[str, tuple[int, ...]] = {}
    for layout in layouts:
        text = layout.text_encoders.get(component)
        if text is not None:
            found.update(_text_shapes(shapes, text, int(config["num_hidden_layers"])))
    if found:
        return found
    return {unet_name(name.removeprefix(UNET), config): shape for name, shape in shapes.items()
            if name.startswith(UNET)}


def unet_name(key: str, config: Mapping[str, Any]) -> str:
    """diffusers' name of one of the UNet's tensors. key: original name; config: the UNet's in diffusers format."""
    block = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", key)
    if block and (block[1], block[2]) != ("input", "0"):
        return _unet_block_name(block[1], int(block[2]), int(block[3]), block[4], config)
    for diffusers, ldm in UNET_KEYS.items():
        if key.startswith(f"{ldm}."):
            inner = key.removeprefix(f"{ldm}.")
            if "resnets" in diffusers:
                inner = _restore_prefix(inner, RESNET_KEYS)
            return f"{diffusers}.{inner}"
    return key


def _unet_block_name(side: str, number: int, position: int, rest: str, config: Mapping[str, Any]) -> str:
    """diffusers' name of a layer in a numbered block; position: of the part in the block; rest: the name after it."""
    layers = int(config["layers_per_block"])
    if side == "input":
        # input block 0 is conv_in; each level has `layers` blocks and a downsampler
        level, place = divmod(number - 1, layers + 1)
        front = f"down_blocks.{level}"
        if place == layers:
            return f"{front}.downsamplers.0.{rest.replace('op.', 'conv.', 1)}"
        has_attention = True
    else:
        level, place = divmod(number, layers + 1)
        front = f"up_blocks.{level}"
        has_attention = "CrossAttn" in config["up_block_types"][level]
    if position == 0:
        return f"{front}.resnets.{place}.{_restore_prefix(rest, RESNET_KEYS)}"
    if position == 1 and has_attention:
        return f"{front}.attentions.{place}.{rest}"
    return f"{front}.upsamplers.0.{rest}"


def _text_shapes(shapes: Shapes, text: TextNames, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield diffusers' name and shape of each tensor of a text encoder that has so many layers."""
    outer = "text_model." if text.projection else ""
    for name, shape in shapes.items():
        if not name.startswith(text.prefix):
            continue
        key = name.removeprefix(text.prefix)
        if not text.open_clip:
            # older checkpoints also hold the positions 0 to 76
            if key != "embeddings.position_ids":
                yield key, shape
            continue
        layer = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", key)
        if layer is None:
            if key == "text_projection" and text.projection:
                yield "text_projection.weight", shape[::-1]
            elif key not in ("text_projection", "logit_scale"):
                yield outer + _restore_prefix(key, TEXT_KEYS), shape
            continue
        # releases of 2.x have a last layer that the model does not use
        if int(layer[1]) >= layers:
            continue
        front, inner = f"{outer}encoder.layers.{layer[1]}", _restore_prefix(layer[2], TEXT_LAYER_KEYS)
        if "in_proj_" in inner:
            for kind in "qkv":
                yield f"{front}.{inner.replace('in_proj_', f'{kind}_proj.')}", (shape[0] // 3, *shape[1:])
        else:
            yield f"{front}.{inner}", shape


def _restore_prefix(name: str, table: Mapping[str, str]) -> str:
    """Name with its prefix replaced by the one of diffusers; unchanged where no prefix matches."""
    for diffusers, ldm in table.items():
        if name == ldm or name.startswith(f"{ldm}."):
            return diffusers + name.removeprefix(ldm)
    return name
