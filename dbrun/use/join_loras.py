"""Joining several LoRAs into one: exactly by concatenation, or approximately by adding their factors."""

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
"""Weight, and the adapter that it multiplies."""


def check_joinable(parts: Sequence[AdapterFile], family: Family) -> None:
    """Raise UsageError if an adapter is no plain LoRA, as far as names in its files tell; nothing is loaded."""
    lora_types = {kind.NAME for kind in adapter_types() if kind.supports_lora}
    for part in parts:
        for component, (kind, files) in part.components(family).items():
            # A DoRA's type is `lora`, too, but its update depends on the norm of the sum: it cannot be added up.
            is_dora = any("magnitude" in name or name.endswith("dora_scale")
                          for name in read_header(files[-1]).tensors)
            if is_dora:
                kind = "a DoRA"
            if kind not in lora_types:
                raise _not_joinable(f"{kind} on the {component} in {part.label}")


def _not_joinable(what: str) -> UsageError:
    return UsageError(f"found {what}, and only LoRAs can be joined into one LoRA",
                      fix="write --how full: exact for every type, and as large as the layers that change; or use them "
                      'together as they are: dbrun sample A B "a photo"')


def concatenate_loras(parts: Sequence[WeightedAdapter]) -> ComponentAdapter:
    """The exact sum of the weighted updates: B = [w1 B1, w2 B2 …] [out, r …], A = [A1; A2 …] [r, in …].

    r is the sum of the ranks. Raises UsageError if one of them is no plain LoRA.
    """
    import torch

    _check_loras(parts)
    ranks = [_rank(attached) for _, attached in parts]
    modules = _modules(parts)
    state: dict[str, Tensor] = {}
    for name in modules:
        like = next(attached for _, attached in parts if name in attached.modules)
        downs, ups = [], []
        for (weight, attached), rank in zip(parts, ranks, strict=True):
            # A LoRA without this layer contributes zeros, since one rank must hold for all layers.
            if name in attached.modules:
                down, up = _scaled_factors(attached, name)
            else:
                down, up = _zero_factors(like, name, rank)
            downs.append(down)
            ups.append(weight * up)
        state[f"{name}.{A}"], state[f"{name}.{B}"] = torch.cat(downs, 0), torch.cat(ups, 1)
    return _make_lora(sum(ranks), modules, state)


def add_linear(parts: Sequence[WeightedAdapter]) -> tuple[ComponentAdapter, float]:
    """A LoRA of the same rank whose factors are sums of the weighted factors (peft's `linear`), and its error.

    It is not the sum of the updates; the error is the norm of the difference divided by the norm of that sum.
    Raises UsageError if the ranks differ, or if one of them is no plain LoRA.
    """
    import torch

    _check_loras(parts)
    ranks = {_rank(attached) for _, attached in parts}
    if len(ranks) > 1:
        raise UsageError(f"found ranks {', '.join(map(str, sorted(ranks)))}, and `linear` adds factors of equal rank",
                         fix="write --how concatenated")
    modules = _modules(parts)
    state: dict[str, Tensor] = {}
    squared_error, squared_norm = 0.0, 0.0
    for name in modules:
        downs, ups, updates = [], [], []
        for weight, attached in parts:
            if name not in attached.modules:
                continue
            down, up = _scaled_factors(attached, name)
            # The root of the weight on each factor, so that the product has the weight; its sign is on B alone.
            root = abs(weight) ** 0.5
            signed_root = root
            if weight < 0:
                signed_root = -root
            downs.append(root * down)
            ups.append(signed_root * up)
            updates.append(weight * (up.flatten(1) @ down.flatten(1)))
        summed_down, summed_up = torch.stack(downs).sum(0), torch.stack(ups).sum(0)
        exact = torch.stack(updates).sum(0)
        error = summed_up.flatten(1) @ summed_down.flatten(1) - exact
        squared_error += float(error.square().sum())
        squared_norm += float(exact.square().sum())
        state[f"{name}.{A}"], state[f"{name}.{B}"] = summed_down, summed_up
    relative_error = 0.0
    # Untrained LoRAs have a sum of zero.
    if squared_norm:
        relative_error = (squared_error / squared_norm) ** 0.5
    return _make_lora(ranks.pop(), modules, state), relative_error


def _check_loras(parts: Sequence[WeightedAdapter]) -> None:
    """Raise UsageError unless every adapter consists of the factors A and B only."""
    for _, attached in parts:
        adapter = attached.adapter
        others = [name for name in attached.state if not name.endswith((f".{A}", f".{B}"))]
        if others or not isinstance(adapter, Adapter) or not adapter.supports_lora:
            what = adapter.NAME
            if any(name.endswith("magnitude_vector") for name in others):
                what = "a DoRA"
            raise _not_joinable(what)


def _modules(parts: Sequence[WeightedAdapter]) -> tuple[str, ...]:
    """Names of all layers that any of the adapters adapts, sorted."""
    names: set[str] = set()
    for _, attached in parts:
        names.update(attached.modules)
    return tuple(sorted(names))


def _rank(attached: ComponentAdapter) -> int:
    """Rank, read from the first A [rank, in …]; an adapter's layers all have one rank."""
    return next(int(t.shape[0]) for name, t in attached.state.items() if name.endswith(f".{A}"))


def _scaled_factors(attached: ComponentAdapter, name: str) -> tuple[Tensor, Tensor]:
    """A [r, in …] and B [out, r …] of a layer, with the scale in B."""
    plain = attached.adapter.to_lora(attached.state)
    return plain[f"{name}.{A}"], plain[f"{name}.{B}"]


def _zero_factors(like: ComponentAdapter, name: str, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of zeros at this rank, in the shapes of another adapter's layer."""
    down, up = _scaled_factors(like, name)
    return down.new_zeros(rank, *down.shape[1:]), up.new_zeros(up.shape[0], rank, *up.shape[2:])


def _make_lora(rank: int, modules: tuple[str, ...], state: dict[str, Tensor]) -> ComponentAdapter:
    """A LoRA with these factors; alpha = rank, as the scales are in the factors."""
    kind = next(kind for kind in adapter_types() if kind.supports_lora)
    adapter = kind.model_validate({"type": kind.NAME, "rank": rank, "alpha": float(rank), "targets": modules})
    return ComponentAdapter(adapter.resolved_for(modules), modules,
                            {name: tensor.contiguous() for name, tensor in state.items()})
