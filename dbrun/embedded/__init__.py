"""Paths of the embedded base model, encoder and subjects; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
ENCODER = Path(__file__).parent / "encoder"
SUBJECTS = Path(__file__).parent / "subjects"


def weights_path() -> Path:
    """Folder of the embedded base model in diffusers format, with a `manifest.json` of its files."""
    return WEIGHTS


def encoder_path() -> Path:
    """Folder of the embedded CLIP, in transformers' format, with a `manifest.json` of its files."""
    return ENCODER


def subject_names() -> tuple[str, ...]:
    """Names of the embedded subjects, sorted."""
    return tuple(sorted(path.name for path in SUBJECTS.iterdir() if path.is_dir()))


def subject_path(name: str) -> Path:
    """Folder of a subject's pictures, each with its prompt in a `.txt` file beside it.

    Raises:
        KeyError: no subject has this name; the message lists the names.
    """
    # checked against the list, so that a name such as `../weights` is never joined to a path
    if name not in subject_names():
        raise KeyError(f"no embedded subject is called {name!r}; there are: {', '.join(subject_names())}")
    return SUBJECTS / name
