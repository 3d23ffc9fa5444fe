"""The cache key of a stage: everything that its output depends on, as a JSON document and its sha256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.library_versions import minor_versions
from dbrun.stages.base import Stage
from dbrun.stages.sources import Numerics
from dbrun.store.canonical import JsonValue, digest, to_json_value

FORMAT = 1
"""Version of the key document; raising it makes every stage of every recipe run again."""


@dataclass(frozen=True)
class StageKey:
    """A stage with its params and its cache key.

    document: what is hashed; key: sha256 of the document, 64 hex digits; resume_key: the same without the params that
    only lengthen the work, such as `train.steps`. It names the folder of unfinished work. Without such params it equals
    `key`.
    """

    stage: Stage[Any]
    params: Any
    document: dict[str, JsonValue]
    key: str
    resume_key: str

    @property
    def last_step(self) -> int | None:
        """The step after which the work ends; None where nothing of it can be lengthened."""
        limits = [getattr(self.params, name) for name in self.stage.extendable_params(self.params)]
        return min((limit for limit in limits if isinstance(limit, int)), default=None)


def make_stage_key(stage: Stage[Any], params: Any, inputs: Mapping[str, str], numerics: Numerics) -> StageKey:
    """Cache key of a stage. inputs: upstream stage → digest of its output. Raises TypeError if params is no dataclass.
    """
    params_json = to_json_value(params)
    if not isinstance(params_json, dict):
        raise TypeError(f"the params of {stage.NAME} are no dataclass: {params!r}")
    packages = tuple(package.name for package in stage.required_packages(params))
    document = shared_key_fields(stage, stage.NAME, numerics)
    # optional packages (an optimizer, a decoder) count only in the keys of recipes that use them
    document["libraries"] = to_json_value(minor_versions((*stage.libraries, *packages)))
    document["params"] = params_json
    further = stage.key_numerics(params, numerics)
    if further:
        document["numerics"] = {**computing_fields(numerics), **further}
    document["inputs"] = dict(inputs)
    key = digest(document)
    extendable = stage.extendable_params(params)
    if not extendable:
        return StageKey(stage, params, document, key, key)
    fixed: dict[str, JsonValue] = {name: value for name, value in params_json.items() if name not in extendable}
    # `lengthens` keeps the two documents apart: a resume key must never equal the key of a stage without that param
    lineage: dict[str, JsonValue] = {**document, "params": fixed, "lengthens": ",".join(sorted(extendable))}
    return StageKey(stage, params, document, key, digest(lineage))


def shared_key_fields(stage: Stage[Any], name: str, numerics: Numerics) -> dict[str, JsonValue]:
    """Fields that the key documents of a stage and of its single items share. name: of the stage, or of its items."""
    numerics_field = computing_fields(numerics) if stage.device_dependent else None
    return {"format": FORMAT, "stage": name, "version": stage.VERSION, "numerics": numerics_field,
            "libraries": to_json_value(minor_versions(stage.libraries))}


def computing_fields(numerics: Numerics) -> dict[str, JsonValue]:
    """Device and threads as they stand in a key document."""
    computing: dict[str, JsonValue] = {"device": numerics.device}
    # on a CPU the number of threads decides in which order sums are taken, so it changes the last bits
    if numerics.device == "cpu":
        computing["threads"] = numerics.threads
    return computing
