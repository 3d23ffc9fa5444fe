"""How does an adapter of any program become one of dbrun's, which every format can write?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dbrun.adapters.artifact import Attached
from dbrun.adapters.attach import attach, read
from dbrun.adapters.base import Adapter, types
from dbrun.adapters.lycoris import unwound
from dbrun.errors import RecipeError
from dbrun.formats.merging import strip

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dbrun.formats.given import Given

RANK_AT = {"lora_A.weight": 0, "lora_B.weight": 1, "hada_w1_a": 1, "hada_w1_b": 0, "hada_w2_a": 1, "hada_w2_b": 0}
"""End of a weight's name -> the axis of its rank."""
SCALED = {"lora": "lora_B.weight", "loha": "hada_w1_a"}
"""Adapter type -> the end of the weights that a scale can go into."""


def recast(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    """The adapter as it stands on module, which stays bare; and what was changed about it, in words.

    Ranks that differ between layers become the largest one, with zeros; scales that differ go into the weights. Both
    change no prediction. Raises RecipeError for a type that no such adapter is of.
    """
    kind = str(getattr(given.config["peft_type"], "value", given.config["peft_type"])).lower()
    ways: Mapping[str, Callable[[Given, nn.Module], tuple[Attached, tuple[str, ...]]]] = {
        "lora": _lora, "loha": _loha, "lokr": _lokr, "oft": _oft}
    if kind not in ways:
        raise RecipeError(f"it is an adapter of type {kind}, which no recipe can have",
                          fix=f"name one of {', '.join(ways)}")
    return ways[kind](given, module)


def _lora(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    dora = any(name.endswith("magnitude_vector") for name in given.state)
    return _ranked(given, given.state, {"type": "lora", **({"dora": True} if dora else {})})


def _loha(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    state = {f"{layer}.{end}": tensor for layer in given.modules for end, tensor in unwound(_of(given, layer)).items()}
    attached, changed = _ranked(given, state, {"type": "loha"})
    small = any(name.endswith("hada_t1") for name in given.state)
    return attached, (*changed, *(("small kernels were multiplied into the inner factors",) if small else ()))


def _ranked(given: Given, state: Mapping[str, Tensor], settings: dict[str, object],
            ) -> tuple[Attached, tuple[str, ...]]:
    """At one rank and one scale."""
    import torch

    kind = str(settings["type"])
    ranks = {name: tensor.shape[axis] for name, tensor in state.items() for end, axis in RANK_AT.items()
             if name.endswith(f".{end}")}
    rank, changed, new = max(ranks.values()), [], dict[str, torch.Tensor]()
    one = len(set(given.scales.values())) == 1
    scale = next(iter(given.scales.values())) if one else 1.0
    for name, tensor in state.items():
        layer, end = next((n, name.removeprefix(f"{n}.")) for n in given.scales if name.startswith(f"{n}."))
        if name in ranks and ranks[name] < rank:
            axis = RANK_AT[end]
            more = list(tensor.shape)
            more[axis] = rank - ranks[name]
            tensor = torch.cat([tensor, tensor.new_zeros(more)], dim=axis)
        new[name] = tensor if one or end != SCALED[kind] else tensor * given.scales[layer]
    if len(set(ranks.values())) > 1:
        changed.append(f"ranks from {min(ranks.values())} to {rank} became {rank}, filled with zeros")
    if not one:
        changed.append("alpha differs between layers: it is in the weights, and alpha is the rank now")
    return _attached({**settings, "rank": rank, "alpha": scale * rank}, given.modules, new), tuple(changed)


def _lokr(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    """With the factor that gives its shapes, which its names do not tell; the scale goes into the first factor."""
    import torch

    shapes = {name: tuple(tensor.shape) for name, tensor in given.state.items()}
    state = {name: tensor * given.scales[name.rpartition(".")[0]] if name.endswith((".lokr_w1", ".lokr_w1_a"))
             else tensor for name, tensor in given.state.items()}
    for settings in _lokr_settings(given):
        adapter = _adapter({"type": "lokr", **settings}, given.modules)
        attach(module, adapter, given.modules, seed=None)
        fits = {name: tuple(tensor.shape) for name, tensor in read(module).items()} == shapes
        strip(module)
        if fits:
            moved = any(scale != 1 for scale in given.scales.values())
            changed = ("the scale is in the first factor, and alpha is the rank now",) if moved else ()
            held = {name: torch.clone(tensor) for name, tensor in state.items()}
            return Attached(adapter, given.modules, held), changed
    raise RecipeError("its LoKr factors differ from layer to layer in a way that no one setting gives",
                      fix="use the file as it is: sample and ComfyUI take it")


def _lokr_settings(given: Given) -> list[dict[str, object]]:
    """Settings that may have given a LoKr's shapes; peft's config says them, kohya's names do not."""
    thin = {t.shape[0] for n, t in given.state.items() if n.endswith((".lokr_w2_b", ".lokr_w1_b"))} or {4096}
    effective = any(name.endswith(".lokr_t2") for name in given.state)
    both = any(name.endswith(".lokr_w1_a") for name in given.state)
    sides = sorted({side for n, t in given.state.items() if n.endswith(".lokr_w1") for side in t.shape if side > 1})
    said: Any = given.config.get("decompose_factor")
    factors = [None if said == -1 else said] if said is not None else [None, *reversed(sides)]
    return [{"rank": rank, "alpha": float(rank), "factor": factor, "decompose_both": both, "effective_conv": effective}
            for rank in sorted(thin) for factor in factors]


def _oft(given: Given, module: nn.Module) -> tuple[Attached, tuple[str, ...]]:
    settings = {"type": "oft", "block_size": given.config["oft_block_size"], "share": given.config["block_share"]}
    return _attached(settings, given.modules, given.state), ()


def _of(given: Given, layer: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{layer}."): t for name, t in given.state.items() if name.startswith(f"{layer}.")}


def _attached(settings: Mapping[str, object], modules: tuple[str, ...], state: Mapping[str, Tensor]) -> Attached:
    return Attached(_adapter(settings, modules), modules, dict(state))


def _adapter(settings: Mapping[str, object], modules: tuple[str, ...]) -> Adapter:
    kind = next(kind for kind in types() if settings["type"] == kind.NAME)
    return kind.model_validate({**settings, "targets": modules}).decided(modules)
