"""What does a layer's weight become under the tensors that kohya's and LyCORIS' names hold for it?

The formulas are those of LyCORIS (Yeh et al. 2023, arXiv:2309.14859) as ComfyUI and A1111 apply them. They are written
out here, without peft, so that what peft trained and what they read are two derivations of the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dbrun.adapters.lycoris import unwound
from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

Layer = Mapping[str, "Tensor"]
"""One layer's tensors by the ends of their names, such as `lora_up.weight`."""

KINDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "lora": (frozenset({"lora_up.weight", "lora_down.weight"}), frozenset({"lora_mid.weight"})),
    "loha": (frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}), frozenset({"hada_t1", "hada_t2"})),
    "lokr": (frozenset(), frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b",
                                     "lokr_t2"}))}
"""Adapter type -> the names that it must have, and those that it may have."""
ANY = frozenset({"alpha", "dora_scale"})


def kind_of(names: frozenset[str], layer: str) -> str:
    """The adapter type of a layer's names. Raises RecipeError where they are of none, or of one only in part."""
    own = names - ANY
    for kind, (must, may) in KINDS.items():
        if own and must <= own <= must | may:
            return kind
    strange = sorted(own - {name for must, may in KINDS.values() for name in must | may}) or sorted(own)
    raise RecipeError(f"`{layer}` has tensors that make no LoRA, LoHa or LoKr: {', '.join(strange) or 'only alpha'}",
                      fix="name a file of one of these types that was written whole")


def scale_of(layer: Layer) -> float:
    """alpha / rank; 1 where there is no alpha, and where both factors of a LoKr are whole: their readers ignore it."""
    # where both factors of a LoKr are thin, it is the second one's rank that counts
    inner = [layer[name] for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in layer]
    return float(layer["alpha"]) / inner[0].shape[0] if inner and "alpha" in layer else 1.0


def update(layer: Layer, kind: str) -> Tensor:
    """The layer's update without its scale, [out, in * kernel]; float32."""
    made: Tensor = {"lora": _lora, "loha": _loha, "lokr": _lokr}[kind](layer)
    return made


def adapted(weight: Tensor, layer: Layer, kind: str) -> Tensor:
    """The weight with the update in it; with `dora_scale`, each output (or input) brought to that length."""
    summed = weight + scale_of(layer) * update(layer, kind).to(weight).reshape(weight.shape)
    if "dora_scale" not in layer:
        return summed
    lengths = layer["dora_scale"].to(weight)
    axis = 0 if lengths.shape[0] == weight.shape[0] else 1
    others = tuple(i for i in range(weight.dim()) if i != axis)
    shape = [weight.shape[axis] if i == axis else 1 for i in range(weight.dim())]
    turned: Tensor = summed * (lengths.reshape(shape) / summed.square().sum(dim=others, keepdim=True).sqrt())
    return turned


def without_mid(layer: Layer) -> dict[str, Tensor]:
    """The layer with the inner kernel of a CP-decomposed LoRA, which peft does not know, multiplied in: exact."""
    import torch

    out = dict(layer)
    if "lora_mid.weight" in out:
        down = out["lora_down.weight"].flatten(1)
        out["lora_down.weight"] = torch.einsum("rskl,si->rikl", out.pop("lora_mid.weight"), down)
    return out


def _lora(layer: Layer) -> Tensor:
    plain = without_mid(layer)
    return plain["lora_up.weight"].float().flatten(1) @ plain["lora_down.weight"].float().flatten(1)


def _loha(layer: Layer) -> Tensor:
    plain = {name: tensor.float() for name, tensor in unwound(layer).items()}
    return (plain["hada_w1_a"] @ plain["hada_w1_b"]) * (plain["hada_w2_a"] @ plain["hada_w2_b"])


def _lokr(layer: Layer) -> Tensor:
    import torch

    plain = {name: tensor.float() for name, tensor in unwound(layer).items()}
    one, two = (plain[f"lokr_w{i}"] if f"lokr_w{i}" in plain else
                plain[f"lokr_w{i}_a"] @ plain[f"lokr_w{i}_b"].flatten(1) for i in "12")
    return torch.kron(one, two.flatten(1))
