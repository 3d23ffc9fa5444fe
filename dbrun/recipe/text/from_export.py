"""The recipe of an exported adapter, rebuilt from the file's header and from the record beside it.

The header identifies files by their contents, so that it tells nothing about the machine. Paths are only in the record
`dbrun.json`. Where that is missing, or hides a path of another machine, the user has to give the path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError
from dbrun.recipe.text.spans import Source
from dbrun.recipe.text.tree import MappingNode, dotted_key, leaves
from dbrun.recipe.text.yaml import parse
from dbrun.safetensors_header import find_record, read_provenance

UNKNOWN_PATH = "?"
"""Placeholder for a path that the user has to give."""


def rebuild_recipe(path: Path) -> MappingNode:
    """The recipe of an exported file; relative paths start at the current folder. Raises RecipeError."""
    document = read_provenance(path)
    header_recipe = document.get("recipe")
    if not isinstance(header_recipe, dict):
        raise RecipeError(f"{path} was made from other adapters, not by a recipe", fix=f"dbrun show {path}")
    data = _from_dbrun_json(path, document) or _from_header(header_recipe, path)
    # through the YAML parser, so that the checks of a written recipe hold here too; JSON is YAML
    text = json.dumps(_escape_references(data), ensure_ascii=False)
    node = parse(text, Source.from_text(text, None))
    assert isinstance(node, MappingNode)
    return node


def check_paths_known(data: MappingNode, path: Path) -> None:
    """Raise RecipeError where a path is still unknown; the fix lists the `key=PATH` words to add."""
    unknown = [dotted_key(key) for key, leaf in leaves(data) if leaf.value == UNKNOWN_PATH]
    if unknown:
        options = " ".join(f"{key}=PATH" for key in unknown)
        raise RecipeError(f"{path} does not store the paths of: {', '.join(unknown)}", fix=f"add them: {options}")


def _from_dbrun_json(path: Path, document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe in the file's record; None without a record of the same training."""
    record = find_record(path, document)
    recipe = record.get("recipe") if record is not None else None
    if not recipe:
        return None
    return {key: _hide_foreign_paths(value) for key, value in recipe.items() if value is not None}


def _hide_foreign_paths(value: Any) -> Any:
    """The value with shortened absolute paths replaced by UNKNOWN_PATH."""
    if isinstance(value, dict):
        return {key: _hide_foreign_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide_foreign_paths(inner) for inner in value]
    # the record keeps only the last name of an absolute path, as "…/name", so that it tells nothing about the machine
    if isinstance(value, str) and value.startswith("…/"):
        return UNKNOWN_PATH
    return value


def _from_header(header_recipe: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The recipe section of the header as a recipe, with unknown paths. Raises RecipeError for a part of one."""
    if "base" not in header_recipe or "adapt" not in header_recipe:
        raise RecipeError(f"{path} holds no whole recipe: base or adapt is missing", fix=f"dbrun show {path}")
    # a recipe's name is limited to these characters; the file may have been renamed to anything
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-")[:64] or "rebuilt"
    base, adapt = _base_section(header_recipe["base"]), _adapt_section(header_recipe["adapt"])
    recipe = {**header_recipe, "name": name, "base": base, "adapt": adapt}
    if "subject" in recipe:
        recipe["subject"] = _with_unknown_images(recipe["subject"])
    if "subjects" in recipe:
        recipe["subjects"] = [_with_unknown_images(subject) for subject in recipe["subjects"]]
    prior = header_recipe.get("prior")
    # generated class images have no folder; only the user's own ones have `pictures` in the header
    if isinstance(prior, dict) and "pictures" in prior:
        recipe["prior"] = _with_unknown_images(prior)
    return {key: value for key, value in recipe.items() if value is not None}


def _base_section(header_base: Mapping[str, Any]) -> dict[str, Any]:
    section = {"type": header_base["type"], "path": UNKNOWN_PATH}
    # identity is "hub:OWNER/NAME@COMMIT", or a digest of the files of a local base; behind that of a checkpoint of one
    # file may be "+hub:OWNER/NAME@COMMIT", where its tokenizers are
    kind, _, rest = str(header_base["identity"]).partition(":")
    if kind == "hub":
        section["path"], _, section["revision"] = rest.partition("@")
    if kind == "file":
        section["like"] = rest.partition("+hub:")[2] or UNKNOWN_PATH
    for key in ("prediction", "prompt_chunks", "clip_skip"):
        if header_base.get(key):
            section[key] = header_base[key]
    if header_base["variant"]:
        section["variant"] = header_base["variant"]
    if header_base.get("quantise"):
        section["quantise"] = header_base["quantise"]
    return section


def _with_unknown_images(section: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in section.items() if key != "pictures" and value is not None}
    return {**kept, "images": UNKNOWN_PATH}


def _adapt_section(header_adapt: Mapping[str, Any]) -> dict[str, Any]:
    section: dict[str, Any] = {}
    for component, adapter in header_adapt.items():
        if not adapter:
            continue
        section[component] = dict(adapter)
        # `init` is the digest of another adapter's file, which may lie anywhere
        if adapter.get("init"):
            section[component]["init"] = UNKNOWN_PATH
    return section


def _escape_references(value: Any) -> Any:
    """The value with every `${` escaped: what the header stores is resolved, so `${` in it is literal text."""
    if isinstance(value, dict):
        return {key: _escape_references(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape_references(inner) for inner in value]
    if isinstance(value, str):
        return value.replace("${", "\\${")
    return value
