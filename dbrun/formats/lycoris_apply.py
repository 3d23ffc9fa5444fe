"""What does a layer's weight become under the tensors that kohya's and LyCORIS' names hold for it?

The formulas are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859) as ComfyUI and A1111 apply them. They are written
out here, without peft, so that what peft trained and what they read are two derivations of the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbrun.adapters.lycoris import merge_cp_kernels
from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

LayerTensors = Mapping[str, "Tensor"]
"""One layer's tensors by the ends of their names, such as `lora_up.weight`."""

COMMON_SUFFIXES = frozenset({"alpha", "dora_scale"})


def layer_type(names: frozenset[str], layer: str) -> str:
    """The adapter type of a layer's names. Raises RecipeError where they are of none, or of one only in part."""
    own = names - COMMON_SUFFIXES
    for name, kind in LAYER_TYPES.items():
        if own and kind.required <= own <= kind.required | kind.optional:
            return name
    known = {name for kind in LAYER_TYPES.values() for name in kind.required | kind.optional}
    strange = sorted(own - known) or sorted(own)
    raise RecipeError(f"`{layer}` has tensors that make no {_TYPE_LIST}: {', '.join(strange) or 'only alpha'}",
                      fix="name a file of one of these types that was written whole")


def layer_scale(layer: LayerTensors) -> float:
    """alpha / rank; 1 where there is no alpha, and where both factors of a LoKr are whole: their readers ignore it."""
    # where both factors of a LoKr are thin, it is the second one's rank that counts
    inner = [layer[name] for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in layer]
    return float(layer["alpha"]) / inner[0].shape[0] if inner and "alpha" in layer else 1.0


def apply_to_weight(weight: Tensor, layer: LayerTensors, kind: str, name: str) -> Tensor:
    """The weight with the update in it; with `dora_scale`, each output (or input) brought to that length.

    name: the layer's. Raises RecipeError where the update is of another size.
    """
    made = LAYER_TYPES[kind].update(layer).to(weight)
    if (made.shape[0], made.numel()) != (weight.shape[0], weight.numel()):
        raise _size_mismatch(name)
    summed = weight + layer_scale(layer) * made.reshape(weight.shape)
    if "dora_scale" not in layer:
        return summed
    lengths = layer["dora_scale"].to(weight)
    axis = 0 if lengths.shape[0] == weight.shape[0] else 1
    others = tuple(i for i in range(weight.dim()) if i != axis)
    shape = [weight.shape[axis] if i == axis else 1 for i in range(weight.dim())]
    turned: Tensor = summed * (lengths.reshape(shape) / summed.square().sum(dim=others, keepdim=True).sqrt())
    return turned


def apply_to_bias(bias: Tensor | None, layer: LayerTensors, name: str) -> Tensor | None:
    """The bias with what the layer adds to it; None where that is nothing.
    Raises RecipeError as `apply_to_weight` does."""
    more = layer.get("diff_b", layer.get("b_norm"))
    if more is None:
        return None
    if bias is None or more.shape != bias.shape:
        raise _size_mismatch(name)
    return bias.detach().float() + more


def _size_mismatch(name: str) -> RecipeError:
    return RecipeError(f"`{name}` is of another size in the base", fix="name an adapter that was trained on this base")


def merge_lora_mid(layer: LayerTensors) -> dict[str, Tensor]:
    """The layer with the inner kernel of a CP-decomposed LoRA, which peft does not know, multiplied in: exact."""
    import torch

    out = dict(layer)
    if "lora_mid.weight" in out:
        down = out["lora_down.weight"].flatten(1)
        out["lora_down.weight"] = torch.einsum("rskl,si->rikl", out.pop("lora_mid.weight"), down)
    return out


def _lora(layer: LayerTensors) -> Tensor:
    plain = merge_lora_mid(layer)
    return plain["lora_up.weight"].float().flatten(1) @ plain["lora_down.weight"].float().flatten(1)


def _loha(layer: LayerTensors) -> Tensor:
    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    return (plain["hada_w1_a"] @ plain["hada_w1_b"]) * (plain["hada_w2_a"] @ plain["hada_w2_b"])


def _lokr(layer: LayerTensors) -> Tensor:
    import torch

    plain = {name: tensor.float() for name, tensor in merge_cp_kernels(layer).items()}
    one, two = (plain[f"lokr_w{i}"] if f"lokr_w{i}" in plain else
                plain[f"lokr_w{i}_a"] @ plain[f"lokr_w{i}_b"].flatten(1) for i in "12")
    return torch.kron(one, two.flatten(1))


@dataclass(frozen=True)
class LayerType:
    """required, optional: the names that a layer has, and can have;
    update: gives [out, in * kernel], without its scale."""

    required: frozenset[str]
    optional: frozenset[str]
    update: Callable[[LayerTensors], Tensor]


LAYER_TYPES: Mapping[str, LayerType] = {
    "lora": LayerType(frozenset({"lora_up.weight", "lora_down.weight"}), frozenset({"lora_mid.weight"}), _lora),
    "loha": LayerType(frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
                      frozenset({"hada_t1", "hada_t2"}), _loha),
    "lokr": LayerType(frozenset(), frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
                                              "lokr_t2"}), _lokr),
    "full": LayerType(frozenset({"diff"}), frozenset({"diff_b"}), lambda layer: layer["diff"]),
    "norm": LayerType(frozenset({"w_norm"}), frozenset({"b_norm"}), lambda layer: layer["w_norm"])}
"""The types by LyCORIS' words; the last two are differences of the weights themselves, and of norms'."""
_TYPE_LIST = "LoRA, LoHa, LoKr or difference of weights"
