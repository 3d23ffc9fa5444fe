"""The state of any optimizer as tensors and JSON values, without pickle, restored bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

PREFIX = "optimizer/"
SCALAR_TYPES = (bool, int, float)
Scalar = bool | int | float


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The tensors of the state: `optimizer/<number of the parameter>/<name>` -> a copy on the CPU.

    Most have their parameter's shape, such as [out, in]; a step counter is [].
    """
    copies: dict[str, Tensor] = {}
    for index, slots in _state_by_index(optimizer).items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                copies[f"{PREFIX}{index}/{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return copies


def state_values(optimizer: Optimizer) -> dict[str, Any]:
    """The rest of the state, as JSON data with the keys `parameters` and `groups`.

    parameters: number of the parameter -> the plain values of its state; groups: for each parameter group, the options
    that differ from the optimizer's defaults. Raises TypeError for a value that JSON cannot hold.
    """
    parameters: dict[str, dict[str, Scalar]] = {}
    for index, slots in _state_by_index(optimizer).items():
        for name, value in slots.items():
            if not isinstance(value, Tensor):
                parameters.setdefault(str(index), {})[name] = _check_scalar(name, value)
    # some optimizers keep state in their groups (prodigy's d, schedule-free's counters)
    groups: list[dict[str, Scalar]] = []
    for group in optimizer.param_groups:
        changed: dict[str, Scalar] = {}
        for name, value in group.items():
            # the loop sets the rates before each step
            if name in ("params", "lr", "initial_lr") or value == optimizer.defaults.get(name):
                continue
            changed[name] = _check_scalar(name, value)
        groups.append(changed)
    return {"parameters": parameters, "groups": groups}


def load_state(optimizer: Optimizer, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Restore the state that `state_tensors` and `state_values` gave, in a fresh optimizer over the same parameters.

    tensors: shaped as `state_tensors` gave them, such as [out, in] or [].
    """
    slots: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in values["parameters"].items()}
    for key, tensor in tensors.items():
        if key.startswith(PREFIX):
            index, name = key.removeprefix(PREFIX).split("/", 1)
            slots.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    changed = [{**group, **own} for group, own in zip(groups, values["groups"], strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": changed})


def _state_by_index(optimizer: Optimizer) -> dict[int, Mapping[str, Any]]:
    """The state of each parameter that has one, by the parameter's number over all groups."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # not from its state_dict, which some optimizers nest
    return {index: optimizer.state[p] for index, p in enumerate(parameters) if p in optimizer.state}


def _check_scalar(name: str, value: object) -> Scalar:
    """The value. Raises TypeError unless it is a bool, int or float."""
    if isinstance(value, SCALAR_TYPES):
        return value
    raise TypeError(f"the optimizer's state `{name}` is of type {type(value).__name__}, which a checkpoint cannot hold")
