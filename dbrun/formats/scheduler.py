"""Which scheduler is an adapter sampled with, where the base's own is no longer right?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from dbrun.models.base import Family, Loaded

FOLDER = "scheduler"


def write_scheduler(folder: Path, family: Family, loaded: Loaded, changes: Mapping[str, object]) -> Path:
    """Write `scheduler/scheduler_config.json`: the family's sampler with these changes, as any pipeline loads it."""
    sampler = family.sampling_scheduler(family.with_scheduler_changes(loaded, changes))
    config = json.loads(sampler.to_json_string())
    # an exact version would make equal runs differ
    config.pop("_diffusers_version", None)
    path = folder / FOLDER / "scheduler_config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path
