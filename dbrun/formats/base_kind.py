"""The kind of base that an adapter file is for, told by the names, shapes and metadata in its header; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError
from dbrun.input_file import file_exists, parse_json, read_json
from dbrun.safetensors_header import METADATA_KEY, read_header

SD_1, SD_2, SD_3, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion 3", "Stable Diffusion XL"
FLUX_1, FLUX_2, CHROMA = "FLUX.1", "FLUX.2", "Chroma"
Z_IMAGE, QWEN_IMAGE, KREA_2, LUMINA_2 = "Z-Image", "Qwen-Image", "Krea 2", "Lumina 2"
UNET_KINDS = frozenset({SD_1, SD_2, SDXL})
"""Kinds of base whose denoiser is a UNet."""
Kinds = tuple[str, ...]
"""Kinds of base that a sign leaves open; where it is one, the sign is certain."""
CONTEXT_WIDTHS = {768: SD_1, 1024: SD_2, 2048: SDXL}
"""Width of the text that a UNet's cross-attention reads → the published bases of this width."""
ONLY_TEXT_WIDTHS: Mapping[int, Kinds] = {768: (SD_1,), 1024: (SD_2,)}
"""Width of the layers of the only text encoder → the published bases that have such a one."""
FIRST_TEXT_WIDTHS: Mapping[int, Kinds] = {768: (SD_1, SDXL, SD_3, FLUX_1), 1024: (SD_2,)}
"""The same for the first of several text encoders: CLIP-L is that of many bases."""
BLOCK_WIDTHS: Mapping[int, Kinds] = {1536: (SD_3,), 2432: (SD_3,), 3072: (FLUX_1, CHROMA, FLUX_2, QWEN_IMAGE),
                                     4096: (FLUX_2,), 6144: (FLUX_2, KREA_2)}
"""Width of a transformer's blocks that read text and picture apart → the published bases of this width."""
ANY_BLOCKS: Kinds = (SD_3, FLUX_1, CHROMA, FLUX_2, QWEN_IMAGE, KREA_2)
"""The bases with such blocks."""
BLOCKS = re.compile(r"^(base_model\.model\.|transformer\.|diffusion_model\.|lora_transformer_|lora_unet_|lycoris_)"
                    r"transformer_blocks[._]\d+[._]attn[._]")
"""Beginning of a name in such a block: a UNet has its `transformer_blocks` further inside."""
NAME_KINDS: tuple[tuple[re.Pattern[str], Kinds], ...] = (
    (re.compile(r"distilled_guidance_layer"), (CHROMA,)),
    (re.compile(r"to_qkv_mlp_proj|_stream_modulation|ff(_context)?[._]linear_(in|out)|time_guidance_embed"), (FLUX_2,)),
    (re.compile(r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)"), (QWEN_IMAGE,)),
    (re.compile(r"[._]to_gate[._]|transformer_blocks[._]\d+[._]ff[._](gate|up|down)[._]|text_fusion|txtfusion"),
     (KREA_2,)),
    (re.compile(r"layers[._]\d+[._]attention[._]to_"), (Z_IMAGE,)),
    (re.compile(r"layers[._]\d+[._](attention[._]qkv|feed_forward[._]w\d)"), (Z_IMAGE, LUMINA_2)),
    # each block has a modulation of its own in FLUX.1 alone
    (re.compile(r"single_transformer_blocks[._]\d+[._]norm[._]linear|single_blocks[._]\d+[._]modulation|"
                r"double_blocks[._]\d+[._](img|txt)_mod"), (FLUX_1,)),
    (re.compile(r"single_transformer_blocks"), (FLUX_1, CHROMA)),
    (re.compile(r"double_blocks|single_blocks"), (FLUX_1, CHROMA, FLUX_2)),
    (re.compile(r"joint_blocks"), (SD_3,)),
    (BLOCKS, ANY_BLOCKS),
    # The blocks as kohya's trainers number them for XL alone; attention with several blocks.
    (re.compile(r"^lora_unet_(input|output|middle)_blocks?_|down_blocks.*transformer_blocks[._][1-9]"), (SDXL,)),
    # the second text encoder
    (re.compile(r"^lora_te2_|^text_encoder_2\."), (SDXL, SD_3)))
"""Part of a weight's name → the kinds of base that have such a layer; the first that any name has counts."""
METADATA_KINDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"sdxl|stable-diffusion-xl"), SDXL), (re.compile(r"chroma"), CHROMA),
    (re.compile(r"krea[-_]?2"), KREA_2), (re.compile(r"flux[-_.]?2|klein"), FLUX_2),
    (re.compile(r"flux"), FLUX_1),
    (re.compile(r"z[-_]?image"), Z_IMAGE), (re.compile(r"qwen[-_]?image"), QWEN_IMAGE),
    (re.compile(r"lumina[-_]?(image[-_]?)?2"), LUMINA_2),
    (re.compile(r"sd_?3|stable-diffusion-v?3"), SD_3), (re.compile(r"sd_v2|stable-diffusion-v2"), SD_2),
    (re.compile(r"sd_v1|stable-diffusion-v1"), SD_1))
"""Part of what a trainer wrote into the metadata → the kind of base."""
TRANSFORMER_KINDS: Mapping[str, str] = {
    "ChromaTransformer2DModel": CHROMA, "Flux2Transformer2DModel": FLUX_2, "FluxTransformer2DModel": FLUX_1,
    "Krea2Transformer2DModel": KREA_2, "QwenImageTransformer2DModel": QWEN_IMAGE, "SD3Transformer2DModel": SD_3,
    "ZImageTransformer2DModel": Z_IMAGE}
"""Class of a base's transformer → its kind."""
METADATA_KEYS = ("modelspec.architecture", "ss_base_model_version")
CONTEXT_LAYER = re.compile(r"attn2[._]to_[kv]\.(lora_A|lora_down|lora\.down|hada_w1_b|diff)(\.\w+)*$")
"""A tensor [r, width] (`diff`: [out, width]) of a layer that reads the text in a UNet."""
ONLY_TEXT_LAYER = re.compile(r"^(lora_te_|text_encoder\.).*q_proj\.(lora_down|lora_linear_layer\.down)(\.\w+)*$")
"""A tensor [r, width] of the only text encoder's layer, by names that bases with several never had."""
FIRST_TEXT_LAYER = re.compile(r"^text_encoder\..*q_proj\.lora_A(\.\w+)*$")
"""A tensor [r, width] of a layer of the first, or only, text encoder."""
SHAPE_KINDS: tuple[tuple[re.Pattern[str], Mapping[int, Kinds]], ...] = (
    (CONTEXT_LAYER, {width: (kind,) for width, kind in CONTEXT_WIDTHS.items()}), (ONLY_TEXT_LAYER, ONLY_TEXT_WIDTHS),
    (re.compile(BLOCKS.pattern + r"(to|add)_q(_proj)?\.(lora_A|lora_down)(\.\w+)*$"), BLOCK_WIDTHS),
    (FIRST_TEXT_LAYER, FIRST_TEXT_WIDTHS))
"""A tensor's name → the length of its axis 1 → the kinds of base that have such a layer; the first counts."""


def adapter_base_kind(files: Iterable[Path]) -> str | None:
    """Kind of base that an adapter is for, such as `FLUX.1`, or `FLUX.1 or Chroma`; None where its files do not tell.

    Raises RecipeError for a damaged file.
    """
    return " or ".join(_adapter_kinds(files)) or None


def is_for_transformer(files: Iterable[Path]) -> bool:
    """Whether an adapter is for bases whose denoiser is a transformer, for all that its files tell. Raises as above."""
    kinds = _adapter_kinds(files)
    return bool(kinds) and not UNET_KINDS.intersection(kinds)


def _adapter_kinds(files: Iterable[Path]) -> Kinds:
    """Kinds of base that an adapter can be for; empty where its files do not tell."""
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for file in files:
        # A folder of PEFT's may lack its weights, which is told elsewhere.
        if file.suffix == ".safetensors" and file_exists(file):
            header = read_header(file)
            metadata |= header.metadata
            shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.tensors.items()}
    # Names and shapes come first: they cannot be wrong, as metadata can.
    kinds: Kinds = ()
    for found in (_kinds_of_names(shapes), _kinds_of_shapes(shapes), _kind_of_metadata(metadata)):
        both = tuple(kind for kind in kinds if kind in found)
        kinds = both or kinds or found
    return kinds


def base_kind(folder: Path) -> str | None:
    """Kind of the base in a folder in diffusers format, by the config of its denoiser; None for every other base."""
    for denoiser, kind_of in (("unet", _kind_of_unet), ("transformer", _kind_of_transformer)):
        try:
            return kind_of(read_json(folder / denoiser / "config.json"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


def _kind_of_unet(config: Mapping[str, Any]) -> str | None:
    kind = CONTEXT_WIDTHS.get(config["cross_attention_dim"])
    # Other UNets read text of this width, too; those of XL alone are told the picture's size.
    if kind == SDXL and config.get("addition_embed_type") != "text_time":
        return None
    return kind


def _kind_of_transformer(config: Mapping[str, Any]) -> str | None:
    return TRANSFORMER_KINDS.get(config["_class_name"])


def check_base_kind(name: str, files: Iterable[Path], folder: Path) -> None:
    """Raise RecipeError if an adapter is for another kind of base than that in folder, as far as both are known.

    name: of the adapter, for the message.
    """
    wanted, found = _adapter_kinds(files), base_kind(folder)
    if wanted and found and found not in wanted:
        raise RecipeError(f"{name} is for {' or '.join(wanted)}, and the base is {found}",
                          fix=f"name an adapter for {found}, or the base that it was trained on")


def with_base_kind(error: RecipeError, name: str, files: Iterable[Path]) -> RecipeError:
    """The error of an adapter that does not fit the base, with its own name and the kind of base that it is for."""
    message = error.message
    if name not in message:
        message = f"{name}: {message}"
    try:
        kind = adapter_base_kind(files)
    except (RecipeError, OSError):
        # The error itself says what is wrong with the file.
        kind = None
    if kind and kind not in message:
        message = f"{message}; it is for {kind}"
    return RecipeError(message, fix=error.fix)


def _kinds_of_names(names: Iterable[str]) -> Kinds:
    for pattern, kinds in NAME_KINDS:
        if any(pattern.search(name) for name in names):
            return kinds
    return ()


def _kinds_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> Kinds:
    for pattern, widths in SHAPE_KINDS:
        for name, shape in shapes.items():
            if len(shape) > 1 and pattern.search(name) and shape[1] in widths:
                return widths[shape[1]]
    return ()


def _kind_of_metadata(metadata: Mapping[str, str]) -> Kinds:
    written = [str(metadata.get(key, "")) for key in METADATA_KEYS]
    # `base.type` of the recipe of a file of our own
    with suppress(ValueError, KeyError, TypeError):
        written.append(str(parse_json(metadata[METADATA_KEY])["recipe"]["base"]["type"]))
    text = " ".join(written).lower()
    for pattern, kind in METADATA_KINDS:
        if pattern.search(text):
            return (kind,)
    return ()
