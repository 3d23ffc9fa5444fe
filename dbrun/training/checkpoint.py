"""Checkpoints: one file each, named by its digest, so that a crash at any moment leaves a whole one or none."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from dbrun.fsync import fsync_path
from dbrun.naming import CHECKPOINT_NAME

FORMAT = "dbrun/checkpoint/2"
ABANDONED_SECONDS = 3600.0
"""Age in seconds from which an unfinished checkpoint counts as left by a crash, and is deleted."""


@dataclass(frozen=True)
class Checkpoint:
    """The training state after `step` steps. tensors: by name; values: the rest, as plain JSON data."""

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write the checkpoint as one file and return its path; then delete all but the newest `keep` up to this step.

    Checkpoints of later steps, left by a longer run, stay. Raises OSError where the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # one entry only: safetensors writes several in an order that changes from call to call
    values = json.dumps({"format": FORMAT, **checkpoint.values}, sort_keys=True)
    content = save(dict(checkpoint.tensors), metadata={"dbrun": values})
    path = folder / f"step-{checkpoint.step:08d}.{hashlib.sha256(content).hexdigest()}.safetensors"

    # write beside, fsync, rename: under its own name a file is always whole
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        # a partial file must not keep a full disk full
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(folder)

    # old checkpoints go only now: until the rename is on disk, they are what a crash would resume from
    older = [old for step, old in _sorted_checkpoints(folder) if step <= checkpoint.step and old != path]
    surplus = max(0, len(older) - (keep - 1))
    for old in older[:surplus]:
        old.unlink(missing_ok=True)

    # half-written files that a crash left; a young one may belong to a live process
    for leftover in folder.glob(".step-*"):
        # where file locks do not work, another process may be writing a fresh one, or delete this one first
        with suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > ABANDONED_SECONDS:
                leftover.unlink()
    return path


class CheckpointWriter:
    """Writes checkpoints, on a GPU in a thread, while the next steps are computed there.

    folder, keep: as of `save_checkpoint`. On a CPU a thread would compete with the step for its cores and its memory.
    """

    def __init__(self, folder: Path, keep: int, device: torch.device) -> None:
        self.folder, self.keep = folder, keep
        self._executor = None if device.type == "cpu" else ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Path] | None = None

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, or begin to. Raises OSError where it or the one before cannot be written."""
        # one at a time: each holds a copy of the training state
        self.wait()
        if self._executor is None:
            save_checkpoint(self.folder, checkpoint, keep=self.keep)
        else:
            self._writing = self._executor.submit(save_checkpoint, self.folder, checkpoint, keep=self.keep)

    def wait(self) -> None:
        """Wait until all that was begun is on disk. Raises OSError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait as `wait` does, but without its error: another one may be on its way."""
        if self._executor is not None:
            self._executor.shutdown()


def load_newest(folder: Path, *, at_most: int) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest intact checkpoint of at most `at_most` steps, or None, and the names of newer damaged ones."""
    damaged: list[str] = []
    candidates = [path for step, path in _sorted_checkpoints(folder) if step <= at_most]
    for path in reversed(candidates):
        checkpoint = _read(path)
        if checkpoint is not None:
            return checkpoint, tuple(damaged)
        damaged.append(path.name)
    return None, tuple(damaged)


def save_alone(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint as the only one of its step; those of other steps stay. Raises OSError as above."""
    same = [path for step, path in _sorted_checkpoints(folder) if step == checkpoint.step]
    written = save_checkpoint(folder, checkpoint, keep=sys.maxsize)
    # on a GPU a step that is repeated may give other bits; then the first file is of another training
    for path in same:
        if path != written:
            path.unlink(missing_ok=True)


def load_exactly(folder: Path, step: int) -> Checkpoint | None:
    """The intact checkpoint of exactly this step, or None."""
    for found, path in _sorted_checkpoints(folder):
        checkpoint = _read(path) if found == step else None
        if checkpoint is not None:
            return checkpoint
    return None


def _sorted_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of each checkpoint in the folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(_find_checkpoints(folder))


def _find_checkpoints(folder: Path) -> Iterator[tuple[int, Path]]:
    """(step, path) of each checkpoint, in no order; unfinished ones have other names."""
    for path in folder.iterdir():
        match = CHECKPOINT_NAME.fullmatch(path.name)
        if match is not None:
            yield int(match["step"]), path


def _read(path: Path) -> Checkpoint | None:
    """The checkpoint; None where a bit flipped, the file is cut short, or another version of dbrun wrote it."""
    match = CHECKPOINT_NAME.fullmatch(path.name)
    content = path.read_bytes()
    if match is None or hashlib.sha256(content).hexdigest() != match["digest"]:
        return None
    # safetensors: 8 bytes with the header's length, then the header as JSON; `load` gives the tensors only
    header_size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_size])
    values = json.loads(header["__metadata__"]["dbrun"])
    if values.pop("format") != FORMAT:
        return None
    return Checkpoint(int(match["step"]), load(content), values)
