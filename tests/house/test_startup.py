"""Do the verbs that only read start quickly and without the heavy packages?"""

import time
from pathlib import Path

import pytest
from PIL import Image
from projects import cpu_and_heavy

from dbrun.store.store import Store

SKS_DOG = str(Path(__file__).parents[2] / "recipes" / "sks_dog.yaml")


def test_help_takes_little_more_cpu_than_two_imports(tmp_path: Path) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, "--help")
    assert heavy == [] and cpu <= 1.3, f"{cpu} times two imports"


@pytest.mark.parametrize(("words", "most"), [(("validate", SKS_DOG), 4.4), (("plan", SKS_DOG), 4.7)],
                         ids=["validate", "plan"])
def test_reading_verbs_load_no_heavy_package_and_take_little_cpu(tmp_path: Path, words: tuple[str, ...],
                                                                 most: float) -> None:
    cpu, heavy = cpu_and_heavy(tmp_path, *words)
    assert heavy == [] and cpu <= most, f"{cpu} times two imports"


@pytest.mark.slow
@pytest.mark.parametrize(("pictures", "most", "most_again"), [(500, 6.0, 4.8), (10_000, 18.0, 8.0)])
def test_thousands_of_pictures_are_read_once_and_then_known(tmp_path: Path, pictures: int, most: float,
                                                            most_again: float) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    picture = Image.effect_noise((64, 64), 20).convert("RGB")
    for number in range(pictures):
        picture.putpixel((number % 64, 0), (number // 256, number % 256, 0))
        picture.save(folder / f"{number}.{'png' if number % 2 else 'jpg'}", compress_level=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(Path(SKS_DOG).read_text().replace("embedded:sks_dog", "many"))
    time.sleep(2.1)
    first, _ = cpu_and_heavy(tmp_path, "status", str(recipe))
    Store(tmp_path / ".dbrun").prepare()
    cpu_and_heavy(tmp_path, "status", str(recipe))
    again, heavy = cpu_and_heavy(tmp_path, "status", str(recipe))
    assert heavy == [] and first <= most and again <= most_again, f"{first}, then {again} times two imports"


def test_the_schema_is_printed_without_a_heavy_package(tmp_path: Path) -> None:
    assert cpu_and_heavy(tmp_path, "schema")[1] == []
