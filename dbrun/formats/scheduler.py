"""The scheduler config of an export, for adapters that the base's own scheduler does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dbrun.models.base import Model

FOLDER = "scheduler"


def write_scheduler(folder: Path, model: Model, changes: Mapping[str, object]) -> Path:
    """Write `scheduler/scheduler_config.json`, the family's sampler with these changes; returns its path."""
    sampler = model.with_scheduler_changes(changes).sampling_scheduler()
    config = json.loads(sampler.to_json_string())
    # The exact version would make equal runs differ.
    config.pop("_diffusers_version", None)
    path = folder / FOLDER / "scheduler_config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
