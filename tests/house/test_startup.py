"""Do the verbs that only read start quickly and without the heavy packages?"""

from pathlib import Path

import pytest
from projects import cpu_and_heavy

SKS_DOG = str(Path(__file__).parents[2] / "recipes" / "sks_dog.yaml")


def test_help_takes_less_cpu_than_two_imports(tmp_path: Path) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, "--help")
    assert heavy == [] and cpu <= 1.0, f"{cpu} times two imports"


@pytest.mark.parametrize("words", [("validate", SKS_DOG), ("plan", SKS_DOG)], ids=lambda w: w[0])
def test_reading_verbs_load_no_heavy_package_and_take_little_cpu(tmp_path: Path, words: tuple[str, ...]) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, *words)
    assert heavy == [] and cpu <= 3.7, f"{cpu} times two imports"


def test_the_schema_is_printed_without_a_heavy_package(tmp_path: Path) -> None:
    assert cpu_and_heavy(tmp_path, "schema")[1] == []
