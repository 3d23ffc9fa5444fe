"""Experiment trackers that a run can log to, and the package that each needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dbrun.options.packages import OptionalPackage

Tracker = Literal["tensorboard", "wandb", "trackio"]
TRACKER_PACKAGES: Mapping[str, OptionalPackage] = {
    name: OptionalPackage(name, name, "trackers") for name in ("tensorboard", "wandb", "trackio")}
"""Tracker → the package that it needs."""
