"""Types of LyCORIS whose update depends on the base's weight; they are read, and no recipe trains them.

The formulas are those of lycoris-lora 4.1, which trains them; ComfyUI (comfy/weight_adapter/oft.py @3684cff3, glora.py
@17adbb5c) computes the same, but for what is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.lycoris_layer import LayerTensors, LycorisLayer
from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


def _rotate_outputs(weight: Tensor, layer: LayerTensors) -> Tensor:
    """(R - I) W with R block-diagonal of (I + Q) (I - Q)^-1, Q skew-symmetric (Qiu et al. 2023, arXiv:2306.07280)."""
    import torch

    blocks = layer["oft_blocks"].float()
    if blocks.dim() == 4:
        raise RecipeError("it is a BOFT, a chain of rotations, which dbrun does not read",
                          fix="use it in ComfyUI, or merge it into its base with the program that trained it")
    if blocks.dim() != 3 or blocks.shape[0] * blocks.shape[1] != weight.shape[0]:
        raise ValueError("the blocks do not cover the outputs")
    count, size, _ = blocks.shape
    skew = blocks - blocks.transpose(1, 2)
    limit = float(layer.get("alpha", torch.zeros(())))
    # lycoris multiplies the limit by the number of outputs again, ComfyUI and kohya's trainers do not.
    if limit > 0 and float(skew.norm()) > limit:
        raise RecipeError("it is a diag-OFT whose limit on the rotation is reached, and programs apply that "
                          "differently", fix="merge it into its base with the program that trained it")
    identity = torch.eye(size)
    rotation = (identity + skew) @ torch.linalg.inv(identity - skew)
    pieces = weight.reshape(count, size, -1)
    # As they store it: the blocks of R are transposed.
    turned = torch.einsum("knm,knp->kmp", rotation.to(weight), pieces).reshape(weight.shape)
    if "rescale" in layer:
        turned = layer["rescale"].to(weight).reshape(-1, *[1] * (weight.dim() - 1)) * turned
    return turned - weight


def _generalized(weight: Tensor, layer: LayerTensors) -> Tensor:
    """(alpha / rank) (W A1 A2 + B1 B2), GLoRA (Chavan et al. 2023, arXiv:2306.07967)."""
    import torch

    a1, a2, b1, b2 = (layer[f"{name}.weight"].float().flatten(1).to(weight) for name in ("a1", "a2", "b1", "b2"))
    rank, inputs = a2.shape
    # Files of the first version have the factors the other way round; where both fit, nothing tells them apart.
    if a1.shape != (inputs, rank) or b1.shape[1] != b2.shape[0] or inputs != weight.shape[1]:
        raise ValueError("the factors do not fit the weight")
    scale = 1.0
    if "alpha" in layer:
        scale = float(layer["alpha"]) / rank
    by_weight = torch.einsum("oi...,ij->oj...", weight, a1 @ a2)
    return scale * (by_weight + (b1 @ b2).reshape(weight.shape))


def _no_fixed_update(layer: LayerTensors) -> Tensor:
    raise NotImplementedError


WEIGHT_CHANGES: Mapping[str, LycorisLayer] = {
    "diag-oft": LycorisLayer("diag-OFT", frozenset({"oft_blocks"}), frozenset({"rescale"}), _no_fixed_update,
                             change=_rotate_outputs),
    "glora": LycorisLayer("GLoRA", frozenset({f"{name}.weight" for name in ("a1", "a2", "b1", "b2")}), frozenset(),
                          _no_fixed_update, change=_generalized)}
"""LyCORIS' types that are read."""
