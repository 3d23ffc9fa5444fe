"""Check of an adapter's provenance document: every member that is read has the type that its readers rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TEXT_OR_LIST, OPTIONAL_TEXT, OPTIONAL_OBJECT = (str, list, type(None)), (str, type(None)), (dict, type(None))
TYPES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("recipe", (dict,)), ("recipe.base", (dict,)), ("recipe.base.type", (str,)), ("recipe.base.identity", (str,)),
    ("recipe.base.variant", OPTIONAL_TEXT), ("recipe.adapt", (dict,)), ("recipe.adapt.*", OPTIONAL_OBJECT),
    ("recipe.images", (dict,)), ("recipe.images.resolution", (int,)), ("recipe.objective", (dict,)),
    ("recipe.subject", (dict,)), ("recipe.subjects", (list,)), ("recipe.subjects.*", (dict,)),
    ("recipe.subject.instance_prompt", TEXT_OR_LIST), ("recipe.subjects.*.instance_prompt", TEXT_OR_LIST),
    ("recipe.subject.class_prompt", TEXT_OR_LIST), ("recipe.subject.class_prompt.*", (str,)),
    ("recipe.subjects.*.class_prompt", TEXT_OR_LIST), ("recipe.subjects.*.class_prompt.*", (str,)),
    ("recipe.subject.trigger", OPTIONAL_TEXT), ("recipe.subjects.*.trigger", OPTIONAL_TEXT),
    ("recipe.subject.pictures", (list,)), ("recipe.subject.pictures.*", (dict,)),
    ("recipe.subject.pictures.*.digest", (str,)), ("recipe.subjects.*.pictures", (list,)),
    ("recipe.subjects.*.pictures.*", (dict,)), ("recipe.subjects.*.pictures.*.digest", (str,)),
    ("recipe.prior", OPTIONAL_OBJECT), ("recipe.prior.pictures", (list,)), ("recipe.prior.pictures.*", (dict,)),
    ("recipe.prior.pictures.*.digest", (str,)), ("inputs", (dict,)), ("merged", (dict,)), ("merged.of", (list,)),
    ("merged.of.*", (dict,)), ("merged.of.*.provenance", (dict,)))
"""Dotted member → its types, where it is there; `*` means every member of an object or item of a list."""
REQUIRED = {"recipe.base": ("type", "identity", "variant"),
            "recipe.subject.pictures.*": ("digest",), "recipe.subjects.*.pictures.*": ("digest",),
            "recipe.prior.pictures.*": ("digest",)}
"""Dotted object → the members that it must have."""
NAMES = {dict: "an object", list: "a list", str: "text", int: "a number", type(None): "null"}


def find_damage(document: Mapping[str, Any]) -> str | None:
    """What is wrong with a provenance document, a clause such as "recipe.base is no object"; None if nothing is."""
    for path, types in TYPES:
        for value in _values(document, path.split(".")):
            # in Python a bool is an int
            if not isinstance(value, types) or isinstance(value, bool):
                return f"{path} is not {' or '.join(NAMES[kind] for kind in types)}"
    for path, members in REQUIRED.items():
        for value in _values(document, path.split(".")):
            for member in members:
                if member not in value:
                    return f"{path} has no {member}"
    for nested in _values(document, ["merged", "of", "*", "provenance"]):
        damage = find_damage(nested)
        if damage is not None:
            return damage
    return None


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    """Yield every value at a path; none where the path ends early."""
    if not path:
        yield value
        return
    first, *rest = path
    if first == "*":
        inner = value
        if isinstance(value, dict):
            inner = value.values()
        if isinstance(value, (list, dict)):
            for item in inner:
                yield from _values(item, rest)
    elif isinstance(value, dict) and first in value:
        yield from _values(value[first], rest)
