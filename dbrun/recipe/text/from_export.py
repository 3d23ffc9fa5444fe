"""What was the recipe of an exported adapter? Rebuilt from its header, and from the record that lies beside it.

The header says what shaped the adapter, by contents. Names and places stand only in `dbrun.json`, as they were written;
where that is not beside the file, and where it named a place of the machine it ran on, the user has to say them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dbrun.errors import RecipeError
from dbrun.recipe.text.spans import Source
from dbrun.recipe.text.tree import MappingNode, leaves
from dbrun.recipe.text.yaml import parse
from dbrun.safetensors_header import find_record, read_provenance

UNKNOWN_PATH = "?"
"""Stands for a place that is not known."""


def rebuild_recipe(path: Path) -> MappingNode:
    """The recipe of an exported file, its places from the folder in which the command is given. Raises RecipeError."""
    document = read_provenance(path)
    told = document.get("recipe")
    if not isinstance(told, dict):
        raise RecipeError(f"{path} was made of other adapters, not by a recipe", fix=f"dbrun show {path}")
    data = _from_dbrun_json(path, document) or _from_header(told, path)
    text = json.dumps(_escape_references(data), ensure_ascii=False)
    node = parse(text, Source.from_text(text, None))
    assert isinstance(node, MappingNode)
    return node


def check_paths_known(data: MappingNode, path: Path) -> None:
    """Raise RecipeError where a place is still unknown, with the words that would say it."""
    if unknown := [".".join(map(str, key)) for key, leaf in leaves(data) if leaf.value == UNKNOWN_PATH]:
        raise RecipeError(f"{path} knows by their contents only: {', '.join(unknown)}",
                          fix=f"say where they are: {' '.join(f'{key}=PATH' for key in unknown)}")


def _from_dbrun_json(path: Path, document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe in the record of the delivery that the file is of; None where there is none, or it is of another."""
    recipe = (find_record(path, document) or {}).get("recipe")
    return {key: _hide_foreign_paths(value) for key, value in recipe.items() if value is not None} if recipe else None


def _hide_foreign_paths(value: Any) -> Any:
    """The value with places of another machine, of which only the last name was kept, as unknown."""
    if isinstance(value, dict):
        return {key: _hide_foreign_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide_foreign_paths(inner) for inner in value]
    return UNKNOWN_PATH if isinstance(value, str) and value.startswith("…/") else value


def _from_header(told: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What the header says, as a recipe."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-")[:64] or "rebuilt"
    recipe = {**told, "name": name, "base": _base_section(told["base"]), "adapt": dict(_adapt_section(told["adapt"]))}
    if "subject" in recipe:
        recipe["subject"] = _with_unknown_images(recipe["subject"])
    if "subjects" in recipe:
        recipe["subjects"] = [_with_unknown_images(one) for one in recipe["subjects"]]
    if isinstance(prior := told.get("prior"), dict):
        recipe["prior"] = _with_unknown_images(prior) if "pictures" in prior else prior
    return {key: value for key, value in recipe.items() if value is not None}


def _base_section(told: Mapping[str, Any]) -> dict[str, Any]:
    kind, _, rest = str(told["identity"]).partition(":")
    repo, _, commit = rest.partition("@")
    place = {"path": repo, "revision": commit} if kind == "hub" else {"path": UNKNOWN_PATH}
    return {"type": told["type"], **place, **({"variant": told["variant"]} if told["variant"] else {})}


def _with_unknown_images(told: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in told.items() if key != "pictures" and value is not None}
    return {**kept, "images": UNKNOWN_PATH}


def _adapt_section(told: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for component, adapter in told.items():
        if adapter:
            yield component, {**adapter, **({"init": UNKNOWN_PATH} if adapter.get("init") else {})}


def _escape_references(value: Any) -> Any:
    """Every `${` as a recipe writes the two letters themselves."""
    if isinstance(value, dict):
        return {key: _escape_references(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape_references(inner) for inner in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value
