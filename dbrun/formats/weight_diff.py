"""Differences of weights by kohya's names, for sums of adapters that no single adapter type can hold.

`diff` and `diff_b` are added to a layer's weight and bias, `w_norm` and `b_norm` to a norm's. These are LyCORIS' types
`full` and `norm`, which ComfyUI and A1111 add without a formula of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError
from dbrun.formats.joined_layers import JoinedLayers
from dbrun.formats.kohya import FILE, file_names
from dbrun.models.base import Family, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

LAYER_SUFFIXES, NORM_SUFFIXES = {"weight": "diff", "bias": "diff_b"}, {"weight": "w_norm", "bias": "b_norm"}
"""Parameter name in its module -> end of its name in the file."""
QUERY_KEY_VALUE_BIAS = re.compile(r"lora_te2?_.+_self_attn_[qkv]_proj\.diff_b")
OPEN_CLIP_WIDTHS = (1024, 1280)
"""Widths of the text encoder of SD 2.x and of the second one of SDXL, which A1111 holds in OpenCLIP's layout."""


def write_weight_diff(folder: Path, model: Model,
                      differences: Mapping[tuple[str, str], Tensor]) -> tuple[Path, ...]:
    """Write `kohya.safetensors`; returns it. Raises RecipeError for a weight that the format has no name for.

    differences: (component, weight name) -> difference, float32 [out, in …] as the weight.
    """
    from safetensors.torch import save_file

    by_component: dict[str, dict[str, dict[str, Tensor]]] = {}
    for (component, name), change in sorted(differences.items()):
        layer, _, parameter = name.rpartition(".")
        module = model.module(component).get_submodule(layer)
        suffixes = _suffixes(model.family, component, module)
        if component not in model.family.kohya_prefixes or parameter not in suffixes:
            raise RecipeError(f"`{name}` of the {component} changes, and other programs have no name for it",
                              fix="export the whole: `export: [merged, single_file]` in the recipe that trained it")
        own = by_component.setdefault(component, {}).setdefault(layer, {})
        own[suffixes[parameter]] = change.contiguous()
        # Readers recognise a layer by the difference of its weight: if only the bias changes, it is zeros.
        no_change = change.new_zeros(module.weight.shape)  # type: ignore[arg-type]
        own.setdefault(suffixes["weight"], no_change)
    tensors: dict[str, Tensor] = {}
    for component, layers in by_component.items():
        for file_name, layer_tensors in _by_file_name(layers, model, component).items():
            for end, tensor in layer_tensors.items():
                tensors[f"{file_name}.{end}"] = tensor
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return (folder / FILE,)


def passed_over(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences on what programs do not read of such a file. tensors: name -> entry of its header."""
    told = ["sd-scripts' `networks.lora` ignores this file and diffusers refuses it; ComfyUI, Forge, A1111 and LyCORIS "
            "read it"]
    biases = [name for name, entry in tensors.items()
              if QUERY_KEY_VALUE_BIAS.fullmatch(name) and entry["shape"][0] in OPEN_CLIP_WIDTHS]
    if biases:
        told.append(f"A1111 ignores {len(biases)} biases of the attention of a text encoder, such as `{biases[0]}`")
    return tuple(told)


def _by_file_name(layers: Mapping[str, Mapping[str, Tensor]], model: Model,
                  component: str) -> Mapping[str, Mapping[str, Tensor]]:
    """Layer's name in the file -> its tensors. layers: layer's name on the module -> its tensors."""
    if model.family.joins_layers(component):
        return JoinedLayers.of(model, component).join_differences(layers)
    names = file_names(model.family, component, layers, lambda: model)
    return {names[layer]: tensors for layer, tensors in layers.items()}


def _suffixes(family: Family, component: str, module: nn.Module) -> Mapping[str, str]:
    """Parameter name -> end of its name in the file; empty for a module that the format has no names for."""
    from torch import nn

    if isinstance(module, (nn.Linear, nn.Conv2d)):
        return LAYER_SUFFIXES
    # Norms of the denoiser only: ComfyUI's list of the layers of text encoders leaves their norms out.
    denoiser = next(iter(family.components))
    if component == denoiser and isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
        return NORM_SUFFIXES
    return {}
