"""How is training kept so that a crash at any moment loses little and falsifies nothing?"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from dbrun.fsync import fsync_path

FORMAT = "dbrun/checkpoint/1"
ABANDONED_SECONDS = 3600.0
"""Seconds after which an unfinished checkpoint is taken for one that a crash left."""
NAME = re.compile(r"step-(?P<step>\d{8,})\.(?P<digest>[0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """State to go on from after `step` steps. values: plain data, as JSON holds it."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write the checkpoint as one file named by its content's digest, then drop those older than the newest `keep`.

    The file is whole before it has its name, and nothing is dropped before it stands. Checkpoints beyond this step,
    which a longer run left, stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # one entry only: safetensors writes several in an order that changes from call to call
    values = json.dumps({"format": FORMAT, **checkpoint.values}, sort_keys=True)
    content = save(dict(checkpoint.tensors), metadata={"dbrun": values})
    path = folder / f"step-{checkpoint.step:08d}.{hashlib.sha256(content).hexdigest()}.safetensors"
    beside = folder / f".{path.name}.{os.getpid()}"
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        # a full disk is not to be kept full by what did not fit
        beside.unlink(missing_ok=True)
        raise
    fsync_path(folder)
    standing = [old for step, old in _sorted_checkpoints(folder) if step <= checkpoint.step and old != path]
    for old in standing[: max(0, len(standing) - (keep - 1))]:
        old.unlink(missing_ok=True)
    for leftover in folder.glob(".step-*"):
        # where locks do not work another process may be writing a fresh one, or clear this one first
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                leftover.unlink()
    return path


def load_newest(folder: Path, *, at_most: int) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The furthest whole checkpoint of at most so many steps, and the names of damaged ones that came further."""
    damaged: list[str] = []
    for _, path in reversed([entry for entry in _sorted_checkpoints(folder) if entry[0] <= at_most]):
        checkpoint = _read(path)
        if checkpoint is not None:
            return checkpoint, tuple(damaged)
        damaged.append(path.name)
    return None, tuple(damaged)


def _sorted_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    return sorted(_find_checkpoints(folder)) if folder.is_dir() else []


def _find_checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if found := NAME.fullmatch(path.name):
            yield int(found["step"]), path


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint, or None where a bit flipped, an end is missing, or another version of dbrun wrote it."""
    named = NAME.fullmatch(path.name)
    content = path.read_bytes()
    if named is None or hashlib.sha256(content).hexdigest() != named["digest"]:
        return None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    values = json.loads(header["__metadata__"]["dbrun"])
    if values.pop("format") != FORMAT:
        return None
    return Checkpoint(int(named["step"]), load(content), values)
