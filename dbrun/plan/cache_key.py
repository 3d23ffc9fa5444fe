"""What does a stage's output depend on, written down and hashed?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.library_versions import minor_versions
from dbrun.stages.base import Stage
from dbrun.stages.sources import Numerics
from dbrun.store.canonical import JsonValue, digest, to_json_value

FORMAT = 1
"""Version of the key document; a change reruns everything."""


@dataclass(frozen=True)
class StageKey:
    """A stage with all that it is given. resume_key: the key without the params that only lengthen the work."""

    stage: Stage[Any]
    params: Any
    document: dict[str, JsonValue]
    key: str
    resume_key: str


def make_stage_key(stage: Stage[Any], params: Any, inputs: Mapping[str, str], numerics: Numerics) -> StageKey:
    """The question whose answer is the stage's artifact. inputs: upstream stage → digest of its output."""
    chosen = to_json_value(params)
    if not isinstance(chosen, dict):
        raise TypeError(f"the params of {stage.NAME} are no dataclass: {params!r}")
    libraries = (*stage.libraries, *(package.name for package in stage.required_packages(params)))
    document: dict[str, JsonValue] = {
        **shared_key_fields(stage, stage.NAME, numerics), "libraries": to_json_value(minor_versions(libraries)),
        "params": chosen, "inputs": dict(inputs)}
    key = digest(document)
    longer = stage.extendable_params(params)
    if not longer:
        return StageKey(stage, params, document, key, key)
    rest: dict[str, JsonValue] = {name: value for name, value in chosen.items() if name not in longer}
    lineage: dict[str, JsonValue] = {**document, "params": rest, "lengthens": ",".join(sorted(longer))}
    return StageKey(stage, params, document, key, digest(lineage))


def shared_key_fields(stage: Stage[Any], name: str, numerics: Numerics) -> dict[str, JsonValue]:
    """What the keys of a stage and of its items share. name: the stage's, or that of its items."""
    computing: dict[str, JsonValue] = {"device": numerics.device}
    if numerics.device == "cpu":
        computing["threads"] = numerics.threads
    return {"format": FORMAT, "stage": name, "version": stage.VERSION,
            "numerics": computing if stage.device_dependent else None,
            "libraries": to_json_value(minor_versions(stage.libraries))}
