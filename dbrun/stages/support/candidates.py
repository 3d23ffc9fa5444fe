"""The candidates in the artifact of `train`: a folder for each step, laid out as the trained adapters beside it."""

from __future__ import annotations

from pathlib import Path

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
