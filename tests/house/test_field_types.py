"""Can a recipe set every field? A scalar of YAML is text until one of the types of `dbrun.config_types` reads it."""

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from dbrun.config_types import Bool, Float, Int, Part, Text
from dbrun.recipe.schema.model import Recipe

SCALARS: dict[type, tuple[str, Any]] = {bool: ("Bool", Bool), int: ("Int", Int), float: ("Float", Float),
                                        str: ("Text", Text)}
"""Python's type -> the name and the type that a field has instead."""


def types_in(annotation: Any) -> tuple[Any, ...]:
    """The types inside a type; of a Literal none, since its arguments are values."""
    if get_origin(annotation) is Annotated:
        return (get_args(annotation)[0],)
    return () if get_origin(annotation) is Literal else get_args(annotation)


def parts_in(annotation: Any) -> Iterator[type[Part]]:
    """Each part in a type, and in the types of its fields."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
        for field in annotation.model_fields.values():
            yield from parts_in(field.annotation)
    for inner in types_in(annotation):
        yield from parts_in(inner)


def unreadable(annotation: Any, marks: tuple[Any, ...] = ()) -> Iterator[str]:
    """What to write instead of each type that no value of a recipe becomes. marks: those of Annotated around it."""
    if get_origin(annotation) is Annotated:
        yield from unreadable(get_args(annotation)[0], annotation.__metadata__)
        return
    if annotation in SCALARS:
        name, right = SCALARS[annotation]
        if right.__metadata__[0] not in marks:
            yield f"a bare {annotation.__name__}: use {name} of dbrun.config_types"
    elif get_origin(annotation) is Literal:
        if not all(isinstance(value, str) for value in get_args(annotation)):
            yield f"{annotation}: a value of a Literal is text"
    elif isinstance(annotation, type) and not get_args(annotation) and not issubclass(annotation, (Part, NoneType)):
        yield f"{annotation.__name__}: use a type of dbrun.config_types"
    for inner in types_in(annotation):
        if inner is not Ellipsis:
            yield from unreadable(inner)


PARTS = sorted(set(parts_in(Recipe)), key=lambda part: part.__name__)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_recipe_can_set_every_field(part: type[Part]) -> None:
    """By part, so that `pytest -k NAME` of a new option or adapter is this as well."""
    found = {name: list(unreadable(field.annotation, tuple(field.metadata)))
             for name, field in part.model_fields.items()}
    assert {name: told for name, told in found.items() if told} == {}


def test_each_type_that_no_recipe_can_set_is_told() -> None:
    class Wrong(Part):
        flag: bool
        count: int | None
        rates: tuple[Float | float, ...]
        size: Literal[1, 2]
        place: Path
        right: Annotated[Float | None, "a mark"]

    told = {name: list(unreadable(field.annotation, tuple(field.metadata)))
            for name, field in Wrong.model_fields.items()}
    assert told == {"flag": ["a bare bool: use Bool of dbrun.config_types"],
                    "count": ["a bare int: use Int of dbrun.config_types"],
                    "rates": ["a bare float: use Float of dbrun.config_types"],
                    "size": ["typing.Literal[1, 2]: a value of a Literal is text"],
                    "place": ["Path: use a type of dbrun.config_types"], "right": []}
