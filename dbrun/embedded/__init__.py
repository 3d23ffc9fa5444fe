"""Where the embedded base model and the subjects that ship with it lie; nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
SUBJECTS = Path(__file__).parent / "subjects"


def weights_path() -> Path:
    """The folder of the embedded base model, in diffusers format, with a `manifest.json` of its files."""
    return WEIGHTS


def subject_names() -> tuple[str, ...]:
    """The subjects that can be asked for, sorted."""
    return tuple(sorted(path.name for path in SUBJECTS.iterdir() if path.is_dir()))


def subject_path(name: str) -> Path:
    """The folder of one subject's pictures, each with its prompt in a `.txt` beside it.

    Raises:
        KeyError: there is no such subject; the message lists those there are.
    """
    if name not in subject_names():
        raise KeyError(f"no embedded subject is called {name!r}; there are: {', '.join(subject_names())}")
    return SUBJECTS / name
