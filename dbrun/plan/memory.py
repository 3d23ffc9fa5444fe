"""Counted memory of the stages of a plan, on this machine or on another device, and whether it fits there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from dbrun.errors import UsageError
from dbrun.plan.device import resolve_device
from dbrun.plan.estimate import stage_workload
from dbrun.plan.planner import Plan, Scope
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.support.memory import CountedMemory, read_counted
from dbrun.store.canonical import digest, to_json_value
from dbrun.store.traces import Trace

COUNT_VERSION = 4
"""Version of the way of counting; raising it makes stored counts unknown."""
DEVICES = ("cuda", "mps", "cpu")
DEVICE_TEXT = re.compile(r"(?P<name>[a-z]+)(?::(?P<size>\d+(\.\d+)?)\s*(?P<unit>[gm])i?b?)?",
                         re.IGNORECASE)
UNIT_BYTES = {"g": 2**30, "m": 2**20}
"""First letter of a unit -> bytes. Makers of cards write GB and mean GiB."""
RESERVED_BYTES = 3 * 2**28
"""Bytes that are taken besides a stage's tensors: the libraries of the process, or the context of a GPU."""


@dataclass(frozen=True)
class TargetDevice:
    """The device that memory is counted for. name: cuda, mps or cpu; size: its bytes, None where they are not known."""

    name: str
    size: int | None = None

    def has_room(self, counted: CountedMemory) -> bool | None:
        """Whether a stage fits; None where the size of the device is not known."""
        if self.size is None:
            return None
        return counted.total + RESERVED_BYTES <= self.size


def parse_device(text: str) -> TargetDevice:
    """The device that a text such as `cuda:24GB` names. Raises UsageError."""
    match = DEVICE_TEXT.fullmatch(text.strip())
    name = match["name"].lower() if match else ""
    if match is None or name not in DEVICES:
        close = nearest(name or text.partition(":")[0], DEVICES)
        raise UsageError(f"found --device {text!r}; allowed are {', '.join(DEVICES)}, with a size such as cuda:24GB",
                         fix=f"write --device {close or 'cuda'}:24GB")
    if match["size"] is None:
        return this_machine(name)
    return TargetDevice(name, int(float(match["size"]) * UNIT_BYTES[match["unit"].lower()]))


def this_machine(name: str) -> TargetDevice:
    """A device of this machine with its memory. A GPU is asked through torch where torch is imported."""
    if name == "cuda":
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return TargetDevice(name)
        return TargetDevice(name, int(torch.cuda.get_device_properties(0).total_memory))
    try:
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return TargetDevice(name)
    return TargetDevice(name, size)


def recipe_for(recipe: Recipe, target: TargetDevice) -> Recipe:
    """The recipe on another device. `train.precision: auto` means bf16 on a GPU, since no card is asked."""
    changes: dict[str, object] = {"device": target.name}
    if target.name == "cuda" and target.name != resolve_device(recipe.device) and recipe.train.precision == "auto":
        changes["train"] = recipe.train.model_copy(update={"precision": "bf16"})
    return recipe.model_copy(update=changes)


def known_counts(scope: Scope) -> Mapping[str, CountedMemory]:
    """Stage -> its memory as an earlier count left it in the store, for the same inputs; without torch."""
    known: dict[str, CountedMemory] = {}
    for name in scope.selected_stages.needs:
        counted = known_count(scope, name)
        if counted is not None:
            known[name] = counted
    return known


def known_count(scope: Scope, name: str) -> CountedMemory | None:
    """Memory of a stage as an earlier count left it in the store; None where there is none."""
    # before the keys, which need every stage's params
    if scope.store.memory_counts.is_empty:
        return None
    return read_counted(scope.store.memory_counts.get(_count_key(scope, name)))


def count_stages(scope: Scope) -> Mapping[str, CountedMemory]:
    """Stage -> its memory, counted now where the store does not know it. Imports torch.

    The base is on this machine, or `published_base` knows of it: then the published configs are counted.
    """
    from dbrun.stages.support.memory_phases import dry_run_of

    sources, counts = scope.resolved.sources, dict[str, CountedMemory]()
    device, offload = scope.numerics.device, scope.recipe.base.offload
    with ExitStack() as opened:
        dry_run = None
        for name in scope.selected_stages.needs:
            counted = known_count(scope, name)
            if counted is None:
                dry_run = dry_run or opened.enter_context(dry_run_of(sources.base, device, offload))
                counted = scope.stages[name].count_memory(scope.recipe, sources, dry_run)
                scope.store.memory_counts.put(_count_key(scope, name), counted.to_json())
            counts[name] = counted
    scope.store.save_caches()
    return counts


def measured_memory(trace: Trace) -> int | None:
    """Peak bytes that a stage itself took when it ran; None where they are not known apart from the process's own."""
    on_gpu = _device_of(trace) == "cuda"
    if not trace.memory or not (trace.baseline or on_gpu):
        return None
    return max(0, trace.memory - trace.baseline)


def measured_before(scope: Scope, plan: Plan) -> Mapping[str, int]:
    """Stage -> peak bytes that it took itself when the stored result of this plan was made."""
    measured: dict[str, int] = {}
    for stage in plan.stages:
        trace = scope.store.traces.read(stage.name, stage.key) if stage.key and stage.digest else None
        peak = measured_memory(trace) if trace else None
        if peak is not None:
            measured[stage.name] = peak
    return measured


def _device_of(trace: Trace) -> object:
    numerics = trace.document.get("numerics")
    return numerics.get("device") if isinstance(numerics, dict) else None


def _count_key(scope: Scope, name: str) -> str:
    """Digest of all that the memory of a stage depends on."""
    stage, base = scope.stages[name], scope.resolved.sources.base
    workload = stage_workload(scope, name, base.folder)
    # a longer training needs no more memory; of other stages the results that are collected grow with the work
    units = 0.0 if stage.extendable_params(stage.params(scope.recipe, scope.resolved.sources)) else workload.units
    train = scope.recipe.train
    # the published configs are written by hand: what is counted from them does not stand for the base's own
    identity = base.identity
    if base.folder is None:
        identity += " as published"
    return digest(to_json_value([COUNT_VERSION, name, identity, scope.numerics.device, train.resolved_precision,
                                 train.batch_size, train.accumulation, scope.recipe.images.resolution, units,
                                 list(workload.memory), list(workload.like)]))
