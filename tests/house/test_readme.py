"""Does the README name only keys, verbs, options and recipes that there are?"""

import re
from fnmatch import fnmatch
from pathlib import Path

from dbrun.cli.verbs import VERB_MODULES
from dbrun.recipe.checks.schema_info import all_keys
from dbrun.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
KEYS = all_keys()
SECTIONS = {key.split(".")[0] for key in KEYS}
VERBS = {verb for verbs in VERB_MODULES.values() for verb in verbs}


def named() -> list[str]:
    """Every dotted key of the recipe that stands in backticks, or before `=` on a command line."""
    found = re.findall(r"`([a-z_]+(?:\.[a-z_*]+)+)`", TEXT) + re.findall(r" ([a-z_]+(?:\.[a-z_]+)+)=", TEXT)
    return sorted({key for key in found if key.split(".")[0] in SECTIONS})


def test_every_key_that_is_named_is_there() -> None:
    assert named()
    for key in named():
        assert any(fnmatch(known, key) for known in KEYS), key


def test_every_verb_is_named_and_every_verb_that_is_named_is_there() -> None:
    table = TEXT[TEXT.index("## Commands"):TEXT.index("Exit codes")]
    assert all(re.search(rf"`(dbrun )?{verb}\b", table) for verb in VERBS)
    assert set(re.findall(r"dbrun ([a-z]+)\b", TEXT[TEXT.index("```"):])) <= VERBS


def test_the_recipe_is_one_and_the_recipes_are_there(tmp_path: Path) -> None:
    (tmp_path / "readme.yaml").write_text(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0], encoding="utf-8")
    assert load_recipe(tmp_path / "readme.yaml").recipe.name == "sks_dog"
    assert all((ROOT / path).is_file() for path in re.findall(r"recipes/[a-z0-9_]+\.yaml", TEXT)
               if path != "recipes/mine.yaml")
