"""A key holds all that makes an output, nothing else, in one form."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dbrun import library_versions
from dbrun.plan.cache_key import make_stage_key
from dbrun.stages.base import Stage
from dbrun.stages.sources import Numerics

CPU = Numerics("cpu", 2)


@dataclass(frozen=True)
class Params:
    NEUTRAL: ClassVar[dict[str, object]] = {"extra": None}
    steps: Any = 3
    rate: float = 0.1
    extra: Any = None


class Some(Stage[Params]):
    NAME = "some"
    libraries = ("numpy",)

    def extendable_params(self, params: Params) -> tuple[str, ...]:
        return ("steps",)


def key(stage=Some(), params=Params(), inputs={"load": "a" * 64}, numerics=CPU):
    return make_stage_key(stage, params, inputs, numerics).key


def test_equal_questions_have_equal_keys():
    assert key() == key()
    assert len(key()) == 64


@pytest.mark.parametrize("other", [
    {"params": Params(steps=4)}, {"params": Params(steps=3.0)}, {"params": Params(steps=True)},
    {"params": Params(extra=0)}, {"inputs": {"load": "b" * 64}}, {"inputs": {"adapt": "a" * 64}}, {"inputs": {}},
    {"numerics": Numerics("cuda", 0)}, {"numerics": Numerics("cpu", 4)}])
def test_all_that_makes_the_output_is_in_the_key(other):
    assert key(**other) != key()


def test_the_version_and_the_libraries_are_in_the_key(monkeypatch):
    before = key()
    monkeypatch.setattr(Some, "VERSION", 2)
    assert key() != before
    monkeypatch.setattr(Some, "VERSION", 1)
    monkeypatch.setattr(library_versions, "installed_version", lambda name: "1.99.3")
    other = key()
    assert other != before
    monkeypatch.setattr(library_versions, "installed_version", lambda name: "1.99.7+cpu")
    assert key() == other, "a patch release changes nothing"


def test_device_and_threads_count_only_where_they_change_something(monkeypatch):
    assert key(numerics=Numerics("cuda", 0)) == key(numerics=Numerics("cuda", 8))
    monkeypatch.setattr(Some, "device_dependent", False)
    assert key(numerics=Numerics("cuda", 0)) == key(numerics=CPU)


def test_neutral_values_leave_the_key_alone():
    assert key(params=Params(extra=None)) == key(params=Params())


def test_a_path_is_refused():
    with pytest.raises(TypeError, match="path"):
        key(params=Params(extra=Path("/somewhere")))


def test_longer_work_is_of_the_same_lineage():
    def lineage(**changes):
        return make_stage_key(Some(), replace(Params(), **changes), {}, CPU).resume_key

    assert lineage(steps=3) == lineage(steps=900)
    assert lineage(steps=3) != lineage(rate=0.2)


def test_without_lengthening_the_lineage_is_the_key(monkeypatch):
    monkeypatch.setattr(Some, "extendable_params", lambda self, params: ())
    question = make_stage_key(Some(), Params(), {}, CPU)
    assert question.resume_key == question.key


def test_a_missing_library_has_a_version_too():
    assert library_versions.minor_versions(["no-such-library"]) == {"no-such-library": "absent"}


def test_versions_are_those_of_the_installed_packages():
    from importlib.metadata import version

    for library in ("torch", "diffusers", "numpy", "pillow", "pydantic"):
        assert library_versions.installed_version(library) == version(library)
    assert library_versions.minor_versions(["torch"])["torch"].count(".") == 1
