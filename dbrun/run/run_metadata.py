"""The metadata of an export: recipe, results, versions and machine, without paths and secrets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dbrun
from dbrun.library_versions import installed_version
from dbrun.recipe.schema.model import Recipe
from dbrun.run.redact import redact_path
from dbrun.secrets import redact_secrets
from dbrun.stages.base import Stage
from dbrun.stages.sources import Numerics
from dbrun.store.traces import Trace

PATH_KEYS = {"base": ("path", "like"), "subject": ("images", "class_images"), "prior": ("images",)}
"""Section of a recipe → its keys that hold paths."""


def export_metadata(recipe: Recipe, traces: Mapping[str, Trace], stages: Mapping[str, Stage[Any]],
                    numerics: Numerics) -> dict[str, object]:
    """The metadata of an export; equal runs on one machine have equal metadata except for times."""
    libraries = sorted(set().union(*(stages[name].libraries for name in traces)))
    return {
        "recipe": redacted_recipe(recipe),
        "stages": {name: {"key": t.key, "digest": t.digest, "created": t.created, "seconds": t.seconds}
                   for name, t in traces.items()},
        "versions": {"dbrun": dbrun.__version__, "python": ".".join(map(str, sys.version_info[:3])),
                     **{library: installed_version(library) for library in libraries}},
        "machine": {"system": os.uname().sysname, "architecture": os.uname().machine, "cpus": os.cpu_count(),
                    "processor": _first_match("/proc/cpuinfo", r"model name\s*:\s*(.+)"),
                    "gpu": _first_match("/proc/driver/nvidia/gpus/*/information", r"Model:\s*(.+)"),
                    "device": numerics.device, "threads": numerics.threads},
    }


def redacted_recipe(recipe: Recipe) -> object:
    """The whole recipe as JSON data, without secrets, absolute paths shortened to their last name."""
    return _without_secrets(_redact_recipe_paths(recipe.model_dump(mode="json", by_alias=True)))


def _redact_recipe_paths(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with absolute paths shortened to their last name: an export is shared with others."""
    adapt = {component: _redact_init(adapter) for component, adapter in recipe["adapt"].items()}
    sections = {section: _redact_keys(recipe[section], keys) for section, keys in PATH_KEYS.items()}
    subjects = [_redact_keys(one, PATH_KEYS["subject"]) for one in recipe["subjects"] or ()] or None
    return {**recipe, **sections, "subjects": subjects, "adapt": adapt}


def _redact_init(adapter: dict[str, Any] | None) -> dict[str, Any] | None:
    if not adapter or not adapter.get("init"):
        return adapter
    return {**adapter, "init": redact_path(adapter["init"])}


def _redact_keys(section: dict[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any] | None:
    if not section:
        return section
    redacted = {key: redact_path(section[key]) for key in keys if section[key] is not None}
    return {**section, **redacted}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(inner) for inner in value]
    return redact_secrets(value) if isinstance(value, str) else value


def _first_match(pattern: str, wanted: str) -> str | None:
    """Group 1 of the regular expression `wanted` in the first file that matches the glob pattern, else None."""
    for path in sorted(Path("/").glob(pattern.lstrip("/"))):
        try:
            found = re.search(wanted, path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found:
            return found[1].strip()
    return None
