"""Do the verbs that only read start quickly and without the heavy packages?"""

import time
from pathlib import Path

import pytest
from projects import cpu_and_heavy

from dbrun.store.store import Store

SKS_DOG = str(Path(__file__).parents[2] / "recipes" / "sks_dog.yaml")


def test_help_takes_less_cpu_than_two_imports(tmp_path: Path) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, "--help")
    assert heavy == [] and cpu <= 1.0, f"{cpu} times two imports"


@pytest.mark.parametrize(("words", "most"), [(("validate", SKS_DOG), 3.4), (("plan", SKS_DOG), 4.8)],
                         ids=["validate", "plan"])
def test_reading_verbs_load_no_heavy_package_and_take_little_cpu(tmp_path: Path, words: tuple[str, ...],
                                                                 most: float) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, *words)
    assert heavy == [] and cpu <= most, f"{cpu} times two imports"


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_asked_again_they_take_a_part_of_two_imports(tmp_path: Path, verb: str) -> None:
    Store(tmp_path / ".dbrun").prepare()
    cpu_and_heavy(tmp_path, verb, SKS_DOG)
    time.sleep(2.1)
    cpu_and_heavy(tmp_path, verb, SKS_DOG)
    cpu, heavy = cpu_and_heavy(tmp_path, verb, SKS_DOG)
    assert heavy == [] and cpu <= 0.6, f"{cpu} times two imports"


def test_the_schema_is_printed_without_a_heavy_package(tmp_path: Path) -> None:
    assert cpu_and_heavy(tmp_path, "schema")[1] == []
