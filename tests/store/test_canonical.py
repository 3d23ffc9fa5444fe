"""Equal meanings have equal keys; different ones, even 1, 1.0 and true, do not."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrun.adapters.lora import Lora
from dbrun.recipe.schema.model import Train
from dbrun.store.canonical import canonical_json, digest, to_json_value


@dataclass(frozen=True)
class Pair:
    NEUTRAL: ClassVar[dict[str, object]] = {"b": 0}
    a: object
    b: object = 0


def test_kinds_of_numbers_differ():
    assert len({digest(to_json_value(Pair(v))) for v in (1, 1.0, True, "1", None, (1,), {"1": 1})}) == 7


def test_neutral_fields_are_left_out_but_only_in_their_own_kind():
    assert to_json_value(Pair(5, 0)) == {"a": 5}
    assert to_json_value(Pair(5, False)) == {"a": 5, "b": False}
    assert to_json_value(Pair(5, 0.0)) == {"a": 5, "b": 0.0}


def test_neutral_fields_of_recipe_parts_are_left_out():
    assert "accumulation" not in to_json_value(Train())
    assert to_json_value(Train(accumulation=2))["accumulation"] == 2
    assert "dropout" not in to_json_value(Lora(type="lora"))
    assert to_json_value(Lora(type="lora"))["rank"] == 4


def test_defaults_that_do_something_stay():
    assert to_json_value(Train())["optimizer"]["beta2"] == 0.999


@pytest.mark.parametrize("value", [Path("x"), b"x", {1, 2}, object(), {1: 2}, {"a": [Path("x")]}])
def test_what_has_no_clear_form_is_refused(value):
    with pytest.raises(TypeError):
        to_json_value(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError):
        to_json_value({"x": value})


def test_the_order_of_names_does_not_matter_that_of_lists_does():
    assert digest(to_json_value({"a": 1, "b": 2})) == digest(to_json_value({"b": 2, "a": 1}))
    assert digest(to_json_value((1, 2))) != digest(to_json_value((2, 1)))


def test_the_encoding_is_fixed():
    value = to_json_value({"b": [1, 1.0, True, None, "é"], "a": {}})
    assert canonical_json(value) == b'{"a":{},"b":[1,1.0,true,null,"\\u00e9"]}'


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


def exact(value):
    """The value with its kinds, in a form that == can compare."""
    if isinstance(value, dict):
        return {k: exact(v) for k, v in value.items()}
    return [exact(v) for v in value] if isinstance(value, list) else (type(value), repr(value))


@given(values, values)
def test_equal_bytes_exactly_for_equal_values(a, b):
    assert (canonical_json(to_json_value(a)) == canonical_json(to_json_value(b))) == (exact(a) == exact(b))


@given(values)
def test_what_is_written_reads_back(value):
    assert exact(json.loads(canonical_json(to_json_value(value)))) == exact(value)
