"""How do several LoRAs become one: side by side, or as a weighted mean of their factors?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbrun.adapters.adapter_io import Attached
from dbrun.adapters.base import Adapter, types
from dbrun.errors import UsageError
from dbrun.models.base import Family
from dbrun.safetensors_header import header
from dbrun.use.adapter_files import Named

if TYPE_CHECKING:
    from torch import Tensor

A, B = "lora_A.weight", "lora_B.weight"
Weighted = tuple[float, Attached]


def refuse(parts: Sequence[Named], family: Family) -> None:
    """Raise UsageError for what cannot be one LoRA with others, as far as names tell; nothing is loaded."""
    for part in parts:
        for component, (kind, files) in part.components(family).items():
            magnitudes = any("magnitude" in name or name.endswith("dora_scale") for name in header(files[-1]).tensors)
            if kind not in {one.NAME for one in types() if one.as_lora} or magnitudes:
                raise _no_sum(f"{part.label} is {'a DoRA' if magnitudes else kind} on the {component}")


def _no_sum(what: str) -> UsageError:
    return UsageError(f"only LoRAs have a sum that is a LoRA again, and {what}",
                      fix="write --how full: exact for every type, and as large as the layers that change; or use them "
                      'together as they are: dbrun sample A B "a photo"')


def concatenated(parts: Sequence[Weighted]) -> Attached:
    """The exact sum of the weighted updates, of the sum of the ranks: B = [w1 B1, w2 B2 …], A = [A1; A2 …]."""
    import torch

    _check(parts)
    width = [_rank(attached) for _, attached in parts]
    modules, state = _modules(parts), dict[str, torch.Tensor]()
    for name in modules:
        like = next(a for _, a in parts if name in a.modules)
        downs, ups = [], []
        for (weight, attached), rank in zip(parts, width, strict=True):
            down, up = _pair(attached, name) if name in attached.modules else _nothing(like, name, rank)
            downs.append(down)
            ups.append(weight * up)
        state[f"{name}.{A}"], state[f"{name}.{B}"] = torch.cat(downs, 0), torch.cat(ups, 1)
    return _made(sum(width), modules, state)


def linear(parts: Sequence[Weighted]) -> tuple[Attached, float]:
    """Factors added up, each by the root of its weight, as peft's `linear`: of the same rank, but not the sum.

    Also how far it is from the sum of the updates: the norm of the difference over the norm of that sum.
    """
    import torch

    _check(parts)
    ranks = {_rank(attached) for _, attached in parts}
    if len(ranks) > 1:
        raise UsageError(f"found ranks {', '.join(map(str, sorted(ranks)))}, and `linear` adds factors of equal rank",
                         fix="write --how concatenated")
    modules, state = _modules(parts), dict[str, torch.Tensor]()
    far, whole = 0.0, 0.0
    for name in modules:
        here = [(weight, *_pair(attached, name)) for weight, attached in parts if name in attached.modules]
        down = torch.stack([abs(w) ** 0.5 * a for w, a, _ in here]).sum(0)
        up = torch.stack([(1 if w >= 0 else -1) * abs(w) ** 0.5 * b for w, _, b in here]).sum(0)
        exact = torch.stack([w * (b.flatten(1) @ a.flatten(1)) for w, a, b in here]).sum(0)
        far += float((up.flatten(1) @ down.flatten(1) - exact).square().sum())
        whole += float(exact.square().sum())
        state[f"{name}.{A}"], state[f"{name}.{B}"] = down, up
    return _made(ranks.pop(), modules, state), (far / whole) ** 0.5 if whole else 0.0


def _check(parts: Sequence[Weighted]) -> None:
    for _, attached in parts:
        others = sorted({name for name in attached.state if not name.endswith((f".{A}", f".{B}"))})
        if others or not isinstance(attached.adapter, Adapter) or not attached.adapter.as_lora:
            what = "a DoRA" if any(n.endswith("magnitude_vector") for n in others) else attached.adapter.NAME
            raise _no_sum(f"one of these is {what}")


def _modules(parts: Sequence[Weighted]) -> tuple[str, ...]:
    return tuple(sorted({name for _, attached in parts for name in attached.modules}))


def _rank(attached: Attached) -> int:
    return next(int(t.shape[0]) for name, t in attached.state.items() if name.endswith(f".{A}"))


def _pair(attached: Attached, name: str) -> tuple[Tensor, Tensor]:
    """A and B of a layer with the scale in B."""
    plain = attached.adapter.lora(attached.state)
    return plain[f"{name}.{A}"], plain[f"{name}.{B}"]


def _nothing(like: Attached, name: str, rank: int) -> tuple[Tensor, Tensor]:
    """Zeros of this rank in the shapes of another adapter's layer."""
    down, up = _pair(like, name)
    return down.new_zeros(rank, *down.shape[1:]), up.new_zeros(up.shape[0], rank, *up.shape[2:])


def _made(rank: int, modules: tuple[str, ...], state: dict[str, Tensor]) -> Attached:
    kind = next(kind for kind in types() if kind.as_lora)
    adapter = kind.model_validate({"type": kind.NAME, "rank": rank, "alpha": float(rank), "targets": modules})
    return Attached(adapter.decided(modules), modules, {name: tensor.contiguous() for name, tensor in state.items()})
