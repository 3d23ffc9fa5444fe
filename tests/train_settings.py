"""Settings of a training for tests: the recipe's words, with what stands in `objective` and `adapt` by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dbrun.options.objective import Objective
from dbrun.training.settings import TrainParams


class Own(NamedTuple):
    """What components have of their own: learning rates, and steps after which they stop."""

    rates: Mapping[str, float] = {}
    stops: Mapping[str, int] = {}


def changed(settings: TrainParams, *, own: Own | None = None, distance: Any = None, weighting: Any = None,
            **changes: Any) -> TrainParams:
    """The settings with other values."""
    if own is not None:
        changes |= {"learning_rates": own.rates, "stops": own.stops}
    if distance is not None:
        changes["objective"] = changes.get("objective", settings.objective).with_changes(distance=distance)
    if weighting is not None:
        changes["objective"] = changes.get("objective", settings.objective).with_changes(weighting=weighting)
    return settings.with_changes(**changes)


def train_settings(**values: Any) -> TrainParams:
    """Settings by these values, the rest as a recipe leaves it."""
    return changed(TrainParams.model_construct(objective=Objective()), **values)
