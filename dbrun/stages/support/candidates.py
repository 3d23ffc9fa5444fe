"""The candidates in the artifact of `train`, a folder for each step, and which of them is exported."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from dbrun.adapters.adapter_io import INDEX
from dbrun.input_file import read_json
from dbrun.naming import SELECTION_FILE

FOLDER = "candidates"


def candidate_folder(artifact: Path, step: int) -> Path:
    """The folder of the candidate of a step, whether it exists or not."""
    return artifact / FOLDER / str(step)


def candidate_steps(artifact: Path) -> tuple[int, ...]:
    """The steps of all candidates in an artifact of `train`, in order; the last one is the last step of the training.

    Empty where the recipe keeps none.
    """
    folder = artifact / FOLDER
    if not folder.is_dir():
        return ()
    return tuple(sorted(int(path.name) for path in folder.iterdir()))


def adapter_stage(inputs: Collection[str]) -> str:
    """The stage whose artifact holds the adapter to export: `select` where the recipe has it, else `train`."""
    return "select" if "select" in inputs else "train"


def read_selection(artifact: Path) -> dict[str, object]:
    """The choice that an artifact of `select` holds: `step`, `by` and `keep`."""
    document = read_json(artifact / SELECTION_FILE)
    return {name: document[name] for name in ("step", "by", "keep")}


def content_digest(folder: Path) -> str:
    """The sha256 over an adapter's own files: its index and weights, without what lies beside them."""
    sha = hashlib.sha256()
    for path in (folder / INDEX, *sorted(folder.glob("*.safetensors"))):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        sha.update(f"{path.name} {content}\n".encode())
    return sha.hexdigest()
