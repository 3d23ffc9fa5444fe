"""Does `dbrun new` ask for what is missing, look at the pictures, and overwrite nothing?"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbrun.cli.new import GivenWords, parse_card, write_starter
from dbrun.errors import RecipeError, UsageError
from dbrun.plan import doctor
from dbrun.recipe.load import load_recipe
from dbrun.recipe.starter_bases import starter_bases


class Keyboard(io.StringIO):
    """Answers that are typed on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "list_gpus", lambda: [])
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0)
    for number, side in enumerate((300, 1100)):
        pixels = noise.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(text))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_what_is_given_is_written_and_odd_pictures_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipes").mkdir()
    write_starter("ada", GivenWords(Path("photos"), "SDXL", "8GB", "ohwx", "woman"))
    loaded = load_recipe(Path("recipes/ada.yaml"))
    assert loaded.recipe.subject.images == "../photos" and loaded.recipe.base.offload == "blocks"
    assert loaded.recipe.subject.instance_prompt == "a photo of ohwx woman" and loaded.recipe.train.steps == 600
    said = capsys.readouterr()
    assert said.out == "recipes/ada.yaml\n"
    assert "0.png: tiny" in said.err and "1 of 2 pictures have problems" in said.err


def test_without_words_it_is_the_demonstration(capsys: pytest.CaptureFixture[str]) -> None:
    write_starter("demo", GivenWords())
    assert load_recipe(Path("demo.yaml")).recipe.base.path == "embedded"
    with pytest.raises(UsageError, match="exists already"):
        write_starter("demo", GivenWords())
    assert "card" not in capsys.readouterr().err


def test_the_base_and_card_that_are_taken_are_told(capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    write_starter("one", GivenWords(images=Path("photos")))
    said = capsys.readouterr().err
    assert "base: sdxl" in said and "card: 12 GB" in said
    monkeypatch.setattr(doctor, "list_gpus", lambda: [("a card", "1", "1 MiB", "8188 MiB")])
    write_starter("two", GivenWords(images=Path("photos")))
    assert load_recipe(Path("two.yaml")).recipe.base.offload == "blocks"


def test_it_asks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "photos\nsd15\n8GB\nzwx\ncat\n")
    write_starter("asked", GivenWords())
    recipe = load_recipe(Path("asked.yaml")).recipe
    assert recipe.subject.class_prompt == "a photo of a cat" and recipe.images.resolution == 512
    typed(monkeypatch, "\n")
    write_starter("entered", GivenWords())
    assert load_recipe(Path("entered.yaml")).recipe.base.path == "embedded"
    typed(monkeypatch, "photoz\nphotos\nsdlx\nSD15\ncat\n8GB\ncat\nCat\n\n")
    write_starter("again", GivenWords())
    recipe = load_recipe(Path("again.yaml")).recipe
    assert recipe.subject.instance_prompt == "a photo of cat" and recipe.prior is None
    said = capsys.readouterr().err
    for told in ("no such folder: photoz", "found --base 'sdlx'", "found --memory 'cat'", "'cat' as the rare word"):
        assert said.count(told) == 1
    typed(monkeypatch, "photos\n")
    with pytest.raises(UsageError, match="ended before an answer"):
        write_starter("ended", GivenWords())
    assert not Path("ended.yaml").exists()


def test_what_cannot_be_is_refused_before_anything_is_written() -> None:
    with pytest.raises(RecipeError, match="no such folder"):
        write_starter("none", GivenWords(images=Path("nowhere")))
    with pytest.raises(UsageError, match="--memory"):
        write_starter("none", GivenWords(images=Path("photos"), memory="much"))
    with pytest.raises(UsageError) as caught:
        write_starter("none", GivenWords(images=Path("photos"), base="sdlx"))
    assert caught.value.fix == "write --base sdxl"
    with pytest.raises(UsageError, match="two different words"):
        write_starter("none", GivenWords(images=Path("photos"), memory="12GB", word="dog", class_word="Dog"))
    assert not Path("none.yaml").exists()


def test_the_download_of_a_base_and_its_licence_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    write_starter("open", GivenWords(Path("photos"), "sdxl", "12GB"))
    said = capsys.readouterr().err
    assert "a download of about 7 GB" in said and "licence" not in said
    write_starter("gated", GivenWords(Path("photos"), "flux1", "12GB"))
    assert "https://huggingface.co/black-forest-labs/FLUX.1-dev, then: hf auth login" in capsys.readouterr().err


def test_downloads_are_those_of_the_table_of_recipes() -> None:
    page = Path(__file__).parents[2] / "recipes" / "README.md"
    listed = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 6 and row[3].endswith("GB"):
            listed[row[0].strip("`")] = row[3], row[5]
    for base in starter_bases().values():
        if base.fits:
            gated = "yes" if base.gated else "no"
            assert listed[base.recipe] == (f"{base.download} GB", gated)


@pytest.mark.parametrize(("text", "size"), [("12GB", 12), ("8 gib", 8), ("24", 24), ("7.5g", 7.5)])
def test_a_card_is_a_size(text: str, size: float) -> None:
    assert parse_card(text) == size
