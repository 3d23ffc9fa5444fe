"""Which programs may be told how a training goes?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dbrun.options.packages import OptionalPackage

Tracker = Literal["tensorboard", "wandb", "trackio"]
TRACKER_PACKAGES: Mapping[str, OptionalPackage] = {
    name: OptionalPackage(name, name, "trackers") for name in ("tensorboard", "wandb", "trackio")}
"""What each needs."""
