"""Do README and guides name only commands, keys, recipes and files that there are?"""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import keys_page
import pytest
import typer
from typer.main import get_command

from dbrun.cli.verbs import VERB_MODULES, app_for
from dbrun.recipe.checks.schema_info import all_keys
from dbrun.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / ".github" / "docs"
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(GUIDES.glob("*.md")),
         ROOT / "schemas" / "README.md", ROOT / "recipes" / "README.md"]
KEYS = all_keys()
SECTIONS = {key.split(".")[0] for key in KEYS}
VERBS = {verb for verbs in VERB_MODULES.values() for verb in verbs}
KEY = re.compile(r"`([a-z_]+(?:\.[a-z_*0-9]+)+)(?:: [^`]*|=[^`]*)?`| ([a-z_]+(?:\.[a-z_0-9]+)+)=")
COMMAND = re.compile(r"^(?:pip install .* && )?(dbrun .*)$|`(dbrun [^`]*)`", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+)\)")
FORMS = "|".join(("…", r"\[", "{", r", "))
"""What a form of a command holds that stands for several commands."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@pages
def test_every_key_that_is_named_is_there(page: Path) -> None:
    for found in KEY.finditer(page.read_text(encoding="utf-8")):
        key = found[1] or found[2]
        if key.split(".")[0] in SECTIONS and key not in ("images.json", "train.py"):
            assert any(fnmatch(known, key) for known in KEYS), key


@pages
def test_every_command_can_be_typed(page: Path) -> None:
    """The command line reads it; nothing is run."""
    group = get_command(app_for([]))
    for found in COMMAND.finditer(page.read_text(encoding="utf-8")):
        text = (found[1] or found[2]).partition("  #")[0].partition(" >")[0]
        words = shlex.split(text)[1:]
        if re.search(FORMS, text) or not words or words[0].startswith("-"):
            continue
        assert words[0] in VERBS, text
        command = group.get_command(None, words[0])
        try:
            command.make_context(words[0], words[1:])
        except typer.Exit:
            pass
        except Exception as error:
            # a verb alone in a sentence is its name, not a whole command
            assert len(words) == 1 and "Missing" in str(type(error)), f"{text}: {error}"


@pages
def test_every_link_and_recipe_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
    for recipe in re.findall(r"recipes/[a-z0-9_]+\.yaml", text):
        assert (ROOT / recipe).is_file() or recipe == "recipes/mine.yaml", recipe


def test_every_verb_is_in_the_table_of_commands() -> None:
    text = (GUIDES / "commands.md").read_text(encoding="utf-8")
    assert all(re.search(rf"`(dbrun )?{verb}\b", text) for verb in VERBS)


def test_the_recipe_of_the_guide_is_one(tmp_path: Path) -> None:
    text = (GUIDES / "recipe.md").read_text(encoding="utf-8")
    (tmp_path / "guide.yaml").write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0], encoding="utf-8")
    assert load_recipe(tmp_path / "guide.yaml").recipe.name == "sks_dog"


def test_the_readme_is_read_in_five_minutes_and_leads_to_every_guide() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90 and len(text.split()) <= 750
    linked = {(ROOT / link).resolve() for link in LINK.findall(text)}
    assert set(GUIDES.glob("*.md")) <= linked


def test_the_page_of_keys_is_that_of_this_version() -> None:
    assert (ROOT / "schemas" / "README.md").read_text(encoding="utf-8") == keys_page.keys_page(), \
        "run: python tests/house/regenerate.py"


def test_a_key_of_several_types_has_the_limits_of_each() -> None:
    rows = [row for row in keys_page.keys_page().splitlines() if row.startswith("| `objective.timesteps.scale` |")]
    values = [row.split(" | ")[1] for row in rows]
    assert values == ["a number above 0 and at most 10", "a number from -1 to 1.75"]
