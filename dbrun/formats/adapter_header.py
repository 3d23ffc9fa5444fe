"""What the header of an adapter's file tells of its type, its rank and its layers; without a tensor library."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from dbrun.formats.older_transformers import without_twins
from dbrun.input_file import file_exists, read_json
from dbrun.safetensors_header import Header, read_header

PEFT_CONFIG = "adapter_config.json"
TENSOR_END = re.compile(
    r"[._](lora_[AB]|lora_down|lora_up|lora_mid|lora\.down|lora\.up|lora_linear_layer\.(down|up)|lora_magnitude_vector|"
    r"hada_[wt]\d\w*|lokr_[wt]\d\w*|oft_\w+|dora_scale|alpha|diff_b|diff|w_norm|b_norm|[ab][12])(\.default)?(\.weight)?$")
"""End of a tensor's name: which tensor of its layer it is; what stands before it is the layer."""
TYPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"dora_scale|magnitude_vector"), "dora"), (re.compile(r"hada_"), "loha"),
    (re.compile(r"lokr_"), "lokr"), (re.compile(r"oft_"), "oft"), (re.compile(r"\.[ab][12](\.weight)?$"), "glora"),
    (re.compile(r"lora"), "lora"), (re.compile(r"\.diff(_b)?$|[wb]_norm$"), "full"))
"""Sign in a tensor's name → the adapter type that has it; the first counts."""
RANK_TENSOR = re.compile(r"(lora_A|lora_down|lora\.down|lora_linear_layer\.down|hada_w1_b|lokr_w2_b|lokr_w1_b|[ab]2)"
                         r"(\.default)?(\.weight)?$")
"""Tensors whose axis 0 is the rank."""
FLUX_BLOCK = re.compile(r"_(double|single)_blocks_\d")
"""Part of a layer's name in kohya's files for FLUX.1, which sd-scripts reads by a module of their own."""
SCALAR_FORMATS = {"F64": "<d", "F32": "<f", "F16": "<e"}
"""Type of a number in a header → its format for `struct`; bfloat16 is the upper half of a float32."""


@dataclass(frozen=True)
class AdapterHeader:
    """types: names of adapter types, sorted; ranks, alphas: the different ones of its layers, sorted; layers: names."""

    types: tuple[str, ...]
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    layers: tuple[str, ...]


def read_adapter_header(path: Path) -> AdapterHeader:
    """Types, ranks, alphas and layers of the adapter in a file; all empty where its tensors are no adapter's.

    The alpha of a PEFT folder is in the config beside the file. Raises RecipeError for a damaged file.
    """
    header = read_header(path)
    types_by_layer: dict[str, set[str]] = {}
    ranks: set[int] = set()
    for name in without_twins(header.tensors):
        tensor = header.tensors[name]
        end = TENSOR_END.search(name)
        if end is None:
            continue
        found = types_by_layer.setdefault(name[:end.start()], set())
        # The end alone: the layer's own name can begin with `lora_`.
        kind = next((kind for sign, kind in TYPES if sign.search(end[0])), None)
        if kind is not None:
            found.add(kind)
        if RANK_TENSOR.search(name) and tensor["shape"]:
            ranks.add(tensor["shape"][0])
    types: set[str] = set()
    for found in types_by_layer.values():
        # A DoRA has a LoRA's factors, too.
        types |= found - {"lora"} if "dora" in found else found
    alphas = _alphas(path, header) or _config_alphas(path)
    return AdapterHeader(tuple(sorted(types)), tuple(sorted(ranks)), tuple(sorted(alphas)),
                         tuple(sorted(types_by_layer)))


def _alphas(path: Path, header: Header) -> set[float]:
    names = [name for name, tensor in header.tensors.items() if name.endswith(".alpha")]
    return {read_scalar(path, header, name) for name in names}


def _config_alphas(path: Path) -> set[float]:
    config = path.parent / PEFT_CONFIG
    if not file_exists(config):
        return set()
    try:
        settings = read_json(config)
        found = settings.get("lora_alpha", settings.get("alpha"))
    except (OSError, ValueError, AttributeError):
        return set()
    return {float(found)} if isinstance(found, int | float) else set()


def read_scalar(path: Path, header: Header, name: str) -> float:
    """The first number of a tensor; NaN for a type of number that is no float, or for an empty tensor."""
    tensor = header.tensors[name]
    start, end = tensor["data_offsets"]
    with path.open("rb") as file:
        file.seek(header.data_start + start)
        data = file.read(min(8, end - start))
    if tensor["dtype"] == "BF16":
        data, code = b"\0\0" + data[:2], "<f"
    else:
        code = SCALAR_FORMATS.get(tensor["dtype"], "")
    if not code or len(data) < struct.calcsize(code):
        return float("nan")
    return float(struct.unpack_from(code, data)[0])


def network_entries(path: Path) -> dict[str, str]:
    """kohya's `ss_network_…` entries of an adapter's file; empty where kohya's trainers have no such type."""
    adapter = read_adapter_header(path)
    if not adapter.types or adapter.types == ("oft",):
        return {}
    rank, alpha = _one_of(adapter.ranks), _one_of(adapter.alphas)
    # Where no factor is thin, no tensor has the rank; readers take alpha / rank for 1 then.
    rank = rank or alpha
    entries = {"ss_network_dim": rank, "ss_network_alpha": alpha or rank}
    if adapter.types == ("lora",):
        entries["ss_network_module"] = "networks.lora"
        if any(FLUX_BLOCK.search(layer) for layer in adapter.layers):
            entries["ss_network_module"] = "networks.lora_flux"
    else:
        entries["ss_network_module"] = "lycoris.kohya"
        arguments = {"algo": ",".join(adapter.types)}
        if "dora" in adapter.types:
            arguments = {"algo": "lora", "dora_wd": "True"}
        entries["ss_network_args"] = json.dumps(arguments)
    return {key: value for key, value in entries.items() if value}


def _one_of(numbers: tuple[float, ...]) -> str:
    """A number as kohya's trainers write it; `Dynamic` where layers differ, as their merging writes; "" for none."""
    if len(numbers) > 1:
        return "Dynamic"
    return f"{numbers[0]:g}" if numbers else ""
