"""What the functions of the API return: runs and checks, as frozen values with a stable JSON form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.events import Note, RunFinished
from dbrun.expectations import Outcome, ScoreSummary, outcomes_from_json, summaries_from_json

if TYPE_CHECKING:
    from dbrun.recipe.schema.model import Recipe
    from dbrun.recipe.text.spans import Problem
    from dbrun.store import runs as records

FORMAT_VERSION = 1
"""The `format_version` of these values as JSON."""


@dataclass(frozen=True)
class Run:
    """A run: of this call, or one on record in the store.

    folder: its record; state: running, done, failed, interrupted or killed; ran, reused: numbers of stages; seconds:
    wall time; outputs: the delivered folder, None without an export; files: those delivered; losses: final ones by
    name; scores: of the adapter by name, expectations: what became of those of the recipe, both empty without
    `evaluate`. Of a run that is not done all from `ran` on are unknown: 0 or empty.
    """

    id: str
    name: str
    folder: Path
    state: str = "done"
    is_pinned: bool = False
    ran: int = 0
    reused: int = 0
    seconds: float = 0.0
    outputs: Path | None = None
    files: tuple[Path, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, ScoreSummary] = field(default_factory=dict)
    expectations: tuple[Outcome, ...] = ()

    @property
    def is_below_expectation(self) -> bool:
        """Whether a score is not what the recipe expects."""
        return not all(outcome.met for outcome in self.expectations)

    @classmethod
    def finished(cls, folder: Path, name: str, event: RunFinished) -> Run:
        """A run by its last event."""
        outputs = Path(event.outputs) if event.outputs is not None else None
        files = tuple(outputs / file for file in event.files) if outputs is not None else ()
        return cls(event.run_id, name, folder, ran=event.ran, reused=event.reused, seconds=event.seconds,
                   outputs=outputs, files=files, losses=dict(event.losses), scores=dict(event.scores),
                   expectations=event.expectations)

    @classmethod
    def on_record(cls, record: records.Run) -> Run:
        """A run of a store by its record."""
        last: Mapping[str, Any] = record.last_event or {}
        outputs, files, losses = last.get("outputs"), last.get("files"), last.get("losses")
        if record.state != "done":
            return cls(record.id, record.name, record.folder, record.state, record.is_pinned)
        # a run of an earlier version has recorded neither files nor losses
        delivered = tuple(Path(str(outputs)) / str(file) for file in files or ()) if outputs else ()
        return cls(record.id, record.name, record.folder, record.state, record.is_pinned, int(last.get("ran", 0)),
                   int(last.get("reused", 0)), float(last.get("seconds", 0.0)), Path(outputs) if outputs else None,
                   delivered, dict(losses or {}), summaries_from_json(last.get("scores")),
                   outcomes_from_json(last.get("expectations")))

    def to_json(self) -> dict[str, object]:
        """The run as plain data."""
        return {"format_version": FORMAT_VERSION, "id": self.id, "name": self.name, "folder": str(self.folder),
                "state": self.state, "pinned": self.is_pinned, "ran": self.ran, "reused": self.reused,
                "seconds": self.seconds, "outputs": str(self.outputs) if self.outputs else None,
                "files": [str(file) for file in self.files], "losses": dict(self.losses),
                "scores": {name: asdict(score) for name, score in self.scores.items()},
                "expectations": [outcome.to_json() for outcome in self.expectations]}


@dataclass(frozen=True)
class Validation:
    """The result of a check of one recipe.

    recipe: without the wrong keys, None if it is not usable; problems: what is wrong with it; warnings: what is
    allowed, but probably not meant; not_checked: what was not looked at, in words, and may still be wrong.
    """

    recipe: Recipe | None = None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Note, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether nothing is wrong with what was checked."""
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """The result as plain data."""
        return {"format_version": FORMAT_VERSION, "valid": self.is_valid,
                "problems": [problem.to_json() for problem in self.problems],
                "warnings": [note.text for note in self.warnings], "unseen": list(self.not_checked)}


@dataclass(frozen=True)
class Sample:
    """Pictures of one prompt. folder: the folder that was written; grid: all pictures in one; pictures: each alone."""

    folder: Path
    grid: Path
    pictures: tuple[Path, ...]

    def to_json(self) -> dict[str, object]:
        """The paths as plain data."""
        return {"format_version": FORMAT_VERSION, "folder": str(self.folder), "grid": str(self.grid),
                "pictures": [str(picture) for picture in self.pictures]}


@dataclass(frozen=True)
class WrittenAdapter:
    """An adapter that was written as another file.

    path: the file, or the folder of a format of several; format: its name; difference: the largest one between the
    denoiser's predictions with the file as it was read back and with what was written; lost: what it does not have of
    the adapters it was made from, in words.
    """

    path: Path
    format: str
    difference: float
    lost: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The result as plain data."""
        return {"format_version": FORMAT_VERSION, "path": str(self.path), "format": self.format,
                "difference": self.difference, "lost": list(self.lost)}
