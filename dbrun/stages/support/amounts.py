"""What do the time, memory and disk of a piece of work grow with?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dbrun.recipe.schema.adapt import Adapt

SIZE_FIELDS = {"rank", "alpha"}
"""What of an adapter `room.weights` counts, or changes nothing of what it takes."""


@dataclass(frozen=True)
class Workload:
    """How large a piece of work is, in numbers that only count beside those of work that is alike; 0 where unknown.

    units: steps, pictures; each: how large one of them is, so that twice as large takes twice as long; memory: of
    each, twice as much takes at most twice the memory; disk: end of a file's name -> what these files grow with, others
    stay as they are; like: all else that it depends on, in words: other work with other words is no guide.
    """

    units: float = 1.0
    each: float = 1.0
    memory: tuple[float, ...] = ()
    disk: Mapping[str, float] = field(default_factory=dict)
    like: tuple[str, ...] = ()


def guidance_label(guidance: float) -> str:
    """Whether a sampler asks the denoiser twice a step, in words."""
    return f"guided {guidance > 1}"


def adapter_labels(adapt: Adapt) -> tuple[str, ...]:
    """What learns and on which layers, in words; not how large it is."""
    found = {name: one.model_dump(mode="json", exclude={*one.EXCLUDED_FIELDS, *SIZE_FIELDS})
             for name, one in adapt.components.items()}
    return tuple(f"{name} {json.dumps(document, sort_keys=True)}" for name, document in found.items())
