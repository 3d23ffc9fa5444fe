"""What does a stage's output depend on, written down and hashed?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dbrun.stages.base import Numerics, Stage
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
    document: dict[str, JsonValue] = {**shared_key_fields(stage, stage.NAME, numerics),
                                      "libraries": minor_versions(libraries), "params": chosen, "inputs": dict(inputs)}
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
            "numerics": computing if stage.device_dependent else None, "libraries": minor_versions(stage.libraries)}


def minor_versions(libraries: Sequence[str]) -> JsonValue:
    """The minor version of each installed library, such as {"torch": "2.13"}."""
    return {name: ".".join(installed_version(name).split(".")[:2]) for name in libraries}


@cache
def installed_version(library: str) -> str:
    """The installed version of a library, "absent" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution(library).read_text("METADATA") or ""
    except PackageNotFoundError:
        return "absent"
    # the metadata's own parser is made for mail and takes milliseconds for each library
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    return found[1] if found else "absent"
