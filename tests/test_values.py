"""Are values what the standard library's frozen dataclasses are?"""

import copy
import dataclasses
import pickle
from dataclasses import field
from functools import cached_property

import pytest

from dbrun.values import dataclass


@dataclass(frozen=True)
class Ours:
    """A value."""

    a: int
    b: str = "x"
    c: list[int] = field(default_factory=list)

    @cached_property
    def double(self) -> int:
        """Kept once it was asked for."""
        return 2 * self.a


@dataclasses.dataclass(frozen=True)
class Theirs:
    """The same, by the standard library."""

    a: int
    b: str = "x"
    c: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Hashed:
    """With a hash, one field, and a word after it is made."""

    NEUTRAL = {}

    a: int

    def __post_init__(self) -> None:
        if self.a < 0:
            raise ValueError(self.a)


@pytest.mark.parametrize(("args", "named"), [((1,), {}), ((1, "y", [3]), {}), ((), {"c": [1], "a": 2}),
                                             ((1,), {"c": [4]})])
def test_values_hold_what_dataclasses_hold(args: tuple[object, ...], named: dict[str, object]) -> None:
    ours, theirs = Ours(*args, **named), Theirs(*args, **named)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs) == vars(ours)
    assert list(vars(ours)) == ["a", "b", "c"]
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours == Ours(*args, **named) != theirs and ours != Ours(7)


@pytest.mark.parametrize(("args", "named"), [((), {}), ((1, "x", [], 4), {}), ((1,), {"a": 1}), ((1,), {"d": 1}),
                                             ((), {"b": "", "d": 1}), ((), {"b": "", "c": []})])
def test_a_wrong_call_is_refused(args: tuple[object, ...], named: dict[str, object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*args, **named)


def test_defaults_that_change_are_made_anew() -> None:
    Ours(1).c.append(2)
    assert Ours(1).c == []


def test_values_do_not_change() -> None:
    value = Ours(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.a = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del value.a
    assert value.double == 2 and dataclasses.replace(value, a=3) == Ours(3)


def test_values_hash_copy_and_travel() -> None:
    value = Hashed(1)
    assert {value: 1}[Hashed(1)] == 1 and hash(value) != hash(Hashed(2))
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    with pytest.raises(TypeError):
        hash(Ours(1))
    with pytest.raises(ValueError):
        Hashed(-1)


def test_a_class_keeps_the_methods_that_it_has_itself() -> None:
    @dataclass(frozen=True)
    class Odd:
        a: int

        def __repr__(self) -> str:
            return "odd"

    assert repr(Odd(1)) == "odd" and Odd(1) == Odd(1)
