"""What does a stage's output depend on, written down and hashed?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dbrun.stages.base import Numerics, Stage
from dbrun.store.canonical import Plain, digest, plain

FORMAT = 1
"""Version of the key document; a change reruns everything."""


@dataclass(frozen=True)
class Ask:
    """A stage with all that it is given. lineage: the key without the params that only lengthen the work."""

    stage: Stage[Any]
    params: Any
    document: dict[str, Plain]
    key: str
    lineage: str


def ask(stage: Stage[Any], params: Any, inputs: Mapping[str, str], numerics: Numerics) -> Ask:
    """The question whose answer is the stage's artifact. inputs: upstream stage → digest of its output."""
    chosen = plain(params)
    if not isinstance(chosen, dict):
        raise TypeError(f"the params of {stage.NAME} are no dataclass: {params!r}")
    libraries = (*stage.libraries, *(package.name for package in stage.packages(params)))
    document: dict[str, Plain] = {**bound(stage, stage.NAME, numerics), "libraries": versions(libraries),
                                  "params": chosen, "inputs": dict(inputs)}
    key = digest(document)
    longer = stage.lengthens(params)
    if not longer:
        return Ask(stage, params, document, key, key)
    rest: dict[str, Plain] = {name: value for name, value in chosen.items() if name not in longer}
    lineage: dict[str, Plain] = {**document, "params": rest, "lengthens": ",".join(sorted(longer))}
    return Ask(stage, params, document, key, digest(lineage))


def bound(stage: Stage[Any], name: str, numerics: Numerics) -> dict[str, Plain]:
    """What the keys of a stage and of its items share. name: the stage's, or that of its items."""
    computing: dict[str, Plain] = {"device": numerics.device}
    if numerics.device == "cpu":
        computing["threads"] = numerics.threads
    return {"format": FORMAT, "stage": name, "version": stage.VERSION,
            "numerics": computing if stage.computes else None, "libraries": versions(stage.libraries)}


def versions(libraries: Sequence[str]) -> Plain:
    """The minor version of each installed library, such as {"torch": "2.13"}."""
    return {name: ".".join(full_version(name).split(".")[:2]) for name in libraries}


@cache
def full_version(library: str) -> str:
    """The installed version of a library, "absent" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution(library).read_text("METADATA") or ""
    except PackageNotFoundError:
        return "absent"
    # the metadata's own parser is made for mail and takes milliseconds for each library
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    return found[1] if found else "absent"
