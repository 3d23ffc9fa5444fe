"""How are changes of weights themselves written under kohya's names, for what no type of adapter holds?

`diff` and `diff_b` are added to a layer's weight and bias, `w_norm` and `b_norm` to a norm's: it is LyCORIS' type
`full`, which ComfyUI and A1111 add as it stands, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.formats.kohya import FILE, kohya_name
from dbrun.models.base import Family, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

LAYER_SUFFIXES, NORM_SUFFIXES = {"weight": "diff", "bias": "diff_b"}, {"weight": "w_norm", "bias": "b_norm"}
"""A parameter's name in its module -> the end of its name in the file."""


def write_weight_diff(folder: Path, model: Model,
                      differences: Mapping[tuple[str, str], Tensor]) -> tuple[Path, ...]:
    """Write `kohya.safetensors`. differences: (component, name of a weight) -> what is added to it, float32.

    Raises RecipeError for a weight that has no name there.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for (component, name), change in sorted(differences.items()):
        layer, _, part = name.rpartition(".")
        module = model.module(component).get_submodule(layer)
        ends = _suffixes(model.family, component, module)
        if component not in model.family.kohya_prefixes or part not in ends:
            raise RecipeError(f"`{name}` of the {component} changes, and other programs have no name for it",
                              fix="export the whole: `export: [merged, single_file]` in the recipe that trained it")
        file_name = kohya_name(model.family, component, layer)
        tensors[f"{file_name}.{ends[part]}"] = change.contiguous()
        # a layer is known by its weight's difference
        tensors.setdefault(f"{file_name}.{ends['weight']}", change.new_zeros(module.weight.shape))  # type: ignore[arg-type]
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    return (folder / FILE,)


def _suffixes(family: Family, component: str, module: nn.Module) -> Mapping[str, str]:
    """The norms of text encoders have no names: ComfyUI's list of their layers leaves them out."""
    from torch import nn

    if isinstance(module, (nn.Linear, nn.Conv2d)):
        return LAYER_SUFFIXES
    denoiser = component == next(iter(family.components))
    return NORM_SUFFIXES if denoiser and isinstance(module, (nn.GroupNorm, nn.LayerNorm)) else {}
