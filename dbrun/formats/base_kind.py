"""The kind of base that an adapter file is for, told by the names, shapes and metadata in its header; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.input_file import file_exists, read_json
from dbrun.safetensors_header import read_header

SD_1, SD_2, SD_3, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion 3", "Stable Diffusion XL"
CONTEXT_WIDTHS = {768: SD_1, 1024: SD_2, 2048: SDXL}
"""Width of the text that a UNet's cross-attention reads → the published bases of this width."""
TEXT_WIDTHS = {768: SD_1, 1024: SD_2}
"""Width of the layers of the only text encoder → the published bases that have such a one."""
NAME_KINDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"double_blocks|single_transformer_blocks|single_blocks"), "FLUX"),
    (re.compile(r"joint_blocks|^(transformer|lora_transformer)[._]"), SD_3),
    # The second text encoder; the blocks as kohya's trainers number them for XL alone; attention with several blocks.
    (re.compile(r"^lora_te2_|^text_encoder_2\.|^lora_unet_(input|output|middle)_blocks?_|"
                r"down_blocks.*transformer_blocks[._][1-9]"), SDXL))
"""Part of a weight's name → the kind of base that has such a layer; the first that any name has counts."""
METADATA_KINDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"sdxl|stable-diffusion-xl"), SDXL), (re.compile(r"flux"), "FLUX"),
    (re.compile(r"sd_?3|stable-diffusion-v?3"), SD_3), (re.compile(r"sd_v2|stable-diffusion-v2"), SD_2),
    (re.compile(r"sd_v1|stable-diffusion-v1"), SD_1))
"""Part of what a trainer wrote into the metadata → the kind of base."""
METADATA_KEYS = ("modelspec.architecture", "ss_base_model_version")
CONTEXT_LAYER = re.compile(r"attn2[._]to_[kv]\.(lora_A|lora_down|lora\.down|hada_w1_b|diff)(\.\w+)*$")
"""A tensor [r, width] (`diff`: [out, width]) of a layer that reads the text in a UNet."""
TEXT_LAYER = re.compile(r"^(lora_te_|text_encoder\.).*q_proj\.(lora_A|lora_down|lora_linear_layer\.down)(\.\w+)*$")
"""A tensor [r, width] of a text encoder's layer."""


def adapter_base_kind(files: Iterable[Path]) -> str | None:
    """Kind of base that an adapter is for, such as `Stable Diffusion XL`; None where its files do not tell.

    Names and shapes come first: they cannot be wrong, as metadata can. Raises RecipeError for a damaged file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for file in files:
        # A folder of PEFT's may lack its weights, which is told elsewhere.
        if file.suffix == ".safetensors" and file_exists(file):
            header = read_header(file)
            metadata |= header.metadata
            shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.tensors.items()}
    return _kind_of_names(shapes) or _kind_of_shapes(shapes) or _kind_of_metadata(metadata)


def base_kind(folder: Path) -> str | None:
    """Kind of the base in a folder in diffusers format, by its UNet's config; None for every other base."""
    try:
        config = read_json(folder / "unet" / "config.json")
        kind = CONTEXT_WIDTHS.get(config["cross_attention_dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Other UNets read text of this width, too; those of XL alone are told the picture's size.
    if kind == SDXL and config.get("addition_embed_type") != "text_time":
        return None
    return kind


def check_base_kind(name: str, files: Iterable[Path], folder: Path) -> None:
    """Raise RecipeError if an adapter is for another kind of base than that in folder, as far as both are known.

    name: of the adapter, for the message.
    """
    wanted, found = adapter_base_kind(files), base_kind(folder)
    if wanted and found and wanted != found:
        raise RecipeError(f"{name} is for {wanted}, and the base is {found}",
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


def _kind_of_names(names: Iterable[str]) -> str | None:
    for pattern, kind in NAME_KINDS:
        if any(pattern.search(name) for name in names):
            return kind
    return None


def _kind_of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for pattern, widths in ((CONTEXT_LAYER, CONTEXT_WIDTHS), (TEXT_LAYER, TEXT_WIDTHS)):
        for name, shape in shapes.items():
            if len(shape) > 1 and pattern.search(name) and shape[1] in widths:
                return widths[shape[1]]
    return None


def _kind_of_metadata(metadata: Mapping[str, str]) -> str | None:
    text = " ".join(str(metadata.get(key, "")) for key in METADATA_KEYS).lower()
    for pattern, kind in METADATA_KINDS:
        if pattern.search(text):
            return kind
    return None
