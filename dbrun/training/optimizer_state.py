"""How is an optimizer's state written down without pickle, so that it comes back to the bit?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

PREFIX = "optimizer/"
SCALAR_TYPES = (bool, int, float)
Scalar = bool | int | float


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """`optimizer/<number of the parameter>/<name>` -> a copy on the CPU."""
    return {f"{PREFIX}{index}/{name}": value.detach().to("cpu", copy=True).contiguous()
            for index, slots in _state_by_index(optimizer).items()
            for name, value in slots.items() if isinstance(value, Tensor)}


def state_values(optimizer: Optimizer) -> dict[str, Any]:
    """parameters: number -> its state's plain values; groups: of each, what is no longer as the optimizer began.

    The rates are left out: the loop sets them before each step. Raises TypeError for state that JSON cannot hold.
    """
    parameters: dict[str, dict[str, Scalar]] = {}
    for index, slots in _state_by_index(optimizer).items():
        for name, value in slots.items():
            if not isinstance(value, Tensor):
                parameters.setdefault(str(index), {})[name] = _check_scalar(name, value)
    first, groups = optimizer.defaults, []
    for group in optimizer.param_groups:
        moved = {n: v for n, v in group.items() if n not in ("params", "lr", "initial_lr") and v != first.get(n)}
        groups.append({name: _check_scalar(name, value) for name, value in moved.items()})
    return {"parameters": parameters, "groups": groups}


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Give a fresh optimizer over the same parameters the state that `state_tensors` and `state_values` took."""
    slots: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in values["parameters"].items()}
    for key, tensor in tensors.items():
        if key.startswith(PREFIX):
            index, name = key.removeprefix(PREFIX).split("/", 1)
            slots.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    moved = [{**group, **own} for group, own in zip(groups, values["groups"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": moved})


def _state_by_index(optimizer: Optimizer) -> dict[int, Mapping[str, Any]]:
    """What the optimizer remembers of each parameter that it has met, by the parameter's number."""
    every = [p for group in optimizer.param_groups for p in group["params"]]
    # not its state_dict, which some optimizers nest
    return {index: optimizer.state[p] for index, p in enumerate(every) if p in optimizer.state}


def _check_scalar(name: str, value: object) -> Scalar:
    if isinstance(value, SCALAR_TYPES):
        return value
    raise TypeError(f"the optimizer keeps a {type(value).__name__} as {name}, which no checkpoint can hold")
