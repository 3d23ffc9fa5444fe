"""Is everything that dbrun reads at run time in the package, the recipes of `recipes/` among it?"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dbrun.cli.words import parse_request, split_words
from dbrun.errors import UsageError
from dbrun.recipe.shipped import shipped_recipes

ROOT = Path(__file__).parents[2]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_folder_of_code_is_in_the_list_of_packages() -> None:
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "dbrun").rglob("__init__.py")}
    assert set(SETUPTOOLS["packages"]) == {".".join(folder.parts) for folder in folders} | {"dbrun.recipes"}


def test_a_recipe_that_comes_with_dbrun_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # of a checkout or of an installed package, whichever is imported
    shipped = shipped_recipes()
    for name in ("sks_dog", "sdxl_dog"):
        assert shipped[name].read_bytes() == (ROOT / "recipes" / f"{name}.yaml").read_bytes()
    assert parse_request(Path("sks_dog"), (), ()).recipe == shipped["sks_dog"]
    assert split_words(["sdxl_dog", "seed=1"]) == (shipped["sdxl_dog"], ["seed=1"])
    with pytest.raises(UsageError, match="sks_dog, ") as caught:
        parse_request(Path("sks_dgo"), (), ())
    assert caught.value.fix == "did you mean sks_dog?"
    # a file of the user's own goes before
    Path("sks_dog").write_text("")
    assert parse_request(Path("sks_dog"), (), ()).recipe == Path("sks_dog")


@pytest.mark.slow
def test_the_wheel_has_the_recipes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    wheel = zipfile.ZipFile(next(tmp_path.glob("*.whl")))
    names = set(wheel.namelist())
    for name, file in shipped_recipes().items():
        assert wheel.read(f"dbrun/recipes/{name}.yaml") == file.read_bytes()
    assert {"dbrun/recipes/sks_dog.lock", "dbrun/ui/report/templates/report.css", "dbrun/py.typed"} <= names
    assert {"dbrun/models/published/sdxl/unet/config.json", "dbrun/embedded/weights/manifest.json"} <= names
