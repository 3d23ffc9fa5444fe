"""Counted memory as text: a row for each stage, whether it fits on the device, and what would help."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from dbrun.disk_space import format_bytes
from dbrun.plan.memory import RESERVED_BYTES, TargetDevice
from dbrun.stages.support.memory import CountedMemory
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint

HEAD = ("stage", "peak", "weights", "activations", "rest", "measured before", "")


def memory_table(counts: Mapping[str, CountedMemory], measured: Mapping[str, int], elsewhere: frozenset[str],
                 advice: Mapping[str, str], target: TargetDevice) -> str:
    """A row for each stage, then the device.

    measured: stage -> peak bytes of its stored result; elsewhere: stages that run on the CPU whatever the device;
    advice: stage -> what would make it smaller.
    """
    rows: list[list[str]] = []
    for name, counted in counts.items():
        before = format_bytes(measured[name]) if name in measured else ""
        parts = [counted.total, counted.weights, counted.activations, counted.rest]
        verdict = "on the CPU" if name in elsewhere else _verdict(counted, target, advice[name])
        rows.append([name, *map(format_bytes, parts), before, verdict])
    return f"{align_rows(rows, head=HEAD)}\n{align_rows([[_device_text(target)]])}"


def _verdict(counted: CountedMemory, target: TargetDevice, advice: str) -> str:
    has_room = target.has_room(counted)
    if has_room is None:
        return ""
    if has_room:
        return paint("fits", "green", sys.stdout)
    return f"{paint('does not fit', 'red', sys.stdout)}: {advice}"


def _device_text(target: TargetDevice) -> str:
    """The device, and what its memory is counted against."""
    if target.size is None:
        return f"counted for {target.name}; give its size to see what fits, such as --device {target.name}:24GB"
    return (f"counted for {target.name} with {format_bytes(target.size)}, of which {format_bytes(RESERVED_BYTES)} are "
            "kept free for the libraries")


def counted_text(counts: Mapping[str, CountedMemory]) -> str:
    """The largest counted peak of a plan's stages, in a line."""
    name = max(counts, key=lambda stage: counts[stage].total)
    return f"counted: up to {format_bytes(counts[name].total)} of memory, in {name}"
