"""How do several LoRAs become one: side by side, or as a weighted mean of their factors?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter, adapter_types
from dbrun.errors import UsageError
from dbrun.models.base import Family
from dbrun.safetensors_header import read_header
from dbrun.use.adapter_files import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor

A, B = "lora_A.weight", "lora_B.weight"
WeightedAdapter = tuple[float, ComponentAdapter]


def check_joinable(parts: Sequence[AdapterFile], family: Family) -> None:
    """Raise UsageError for what cannot be one LoRA with others, as far as names tell; nothing is loaded."""
    for part in parts:
        for component, (kind, files) in part.components(family).items():
            magnitudes = any("magnitude" in name or name.endswith("dora_scale")
                             for name in read_header(files[-1]).tensors)
            if kind not in {one.NAME for one in adapter_types() if one.supports_lora} or magnitudes:
                raise _not_joinable(f"{part.label} is {'a DoRA' if magnitudes else kind} on the {component}")


def _not_joinable(what: str) -> UsageError:
    return UsageError(f"only LoRAs have a sum that is a LoRA again, and {what}",
                      fix="write --how full: exact for every type, and as large as the layers that change; or use them "
                      'together as they are: dbrun sample A B "a photo"')


def concatenate_loras(parts: Sequence[WeightedAdapter]) -> ComponentAdapter:
    """The exact sum of the weighted updates, of the sum of the ranks: B = [w1 B1, w2 B2 …], A = [A1; A2 …]."""
    import torch

    _check_loras(parts)
    width = [_rank(attached) for _, attached in parts]
    modules, state = _modules(parts), dict[str, torch.Tensor]()
    for name in modules:
        like = next(a for _, a in parts if name in a.modules)
        downs, ups = [], []
        for (weight, attached), rank in zip(parts, width, strict=True):
            down, up = _scaled_factors(attached, name) if name in attached.modules else _zero_factors(like, name, rank)
            downs.append(down)
            ups.append(weight * up)
        state[f"{name}.{A}"], state[f"{name}.{B}"] = torch.cat(downs, 0), torch.cat(ups, 1)
    return _make_lora(sum(width), modules, state)


def add_linear(parts: Sequence[WeightedAdapter]) -> tuple[ComponentAdapter, float]:
    """Factors added up, each by the root of its weight, as peft's `linear`: of the same rank, but not the sum.

    Also how far it is from the sum of the updates: the norm of the difference over the norm of that sum.
    """
    import torch

    _check_loras(parts)
    ranks = {_rank(attached) for _, attached in parts}
    if len(ranks) > 1:
        raise UsageError(f"found ranks {', '.join(map(str, sorted(ranks)))}, and `linear` adds factors of equal rank",
                         fix="write --how concatenated")
    modules, state = _modules(parts), dict[str, torch.Tensor]()
    far, whole = 0.0, 0.0
    for name in modules:
        here = [(weight, *_scaled_factors(attached, name)) for weight, attached in parts if name in attached.modules]
        down = torch.stack([abs(w) ** 0.5 * a for w, a, _ in here]).sum(0)
        up = torch.stack([(1 if w >= 0 else -1) * abs(w) ** 0.5 * b for w, _, b in here]).sum(0)
        exact = torch.stack([w * (b.flatten(1) @ a.flatten(1)) for w, a, b in here]).sum(0)
        far += float((up.flatten(1) @ down.flatten(1) - exact).square().sum())
        whole += float(exact.square().sum())
        state[f"{name}.{A}"], state[f"{name}.{B}"] = down, up
    return _make_lora(ranks.pop(), modules, state), (far / whole) ** 0.5 if whole else 0.0


def _check_loras(parts: Sequence[WeightedAdapter]) -> None:
    for _, attached in parts:
        others = sorted({name for name in attached.state if not name.endswith((f".{A}", f".{B}"))})
        if others or not isinstance(attached.adapter, Adapter) or not attached.adapter.supports_lora:
            what = "a DoRA" if any(n.endswith("magnitude_vector") for n in others) else attached.adapter.NAME
            raise _not_joinable(f"one of these is {what}")


def _modules(parts: Sequence[WeightedAdapter]) -> tuple[str, ...]:
    return tuple(sorted({name for _, attached in parts for name in attached.modules}))


def _rank(attached: ComponentAdapter) -> int:
    return next(int(t.shape[0]) for name, t in attached.state.items() if name.endswith(f".{A}"))


def _scaled_factors(attached: ComponentAdapter, name: str) -> tuple[Tensor, Tensor]:
    """A and B of a layer with the scale in B."""
    plain = attached.adapter.to_lora(attached.state)
    return plain[f"{name}.{A}"], plain[f"{name}.{B}"]


def _zero_factors(like: ComponentAdapter, name: str, rank: int) -> tuple[Tensor, Tensor]:
    """Zeros of this rank in the shapes of another adapter's layer."""
    down, up = _scaled_factors(like, name)
    return down.new_zeros(rank, *down.shape[1:]), up.new_zeros(up.shape[0], rank, *up.shape[2:])


def _make_lora(rank: int, modules: tuple[str, ...], state: dict[str, Tensor]) -> ComponentAdapter:
    kind = next(kind for kind in adapter_types() if kind.supports_lora)
    adapter = kind.model_validate({"type": kind.NAME, "rank": rank, "alpha": float(rank), "targets": modules})
    return ComponentAdapter(adapter.resolved_for(modules), modules,
                            {name: tensor.contiguous() for name, tensor in state.items()})
