"""Are the shipped subjects complete, and exactly what the code draws?"""

from pathlib import Path

import pytest
from PIL import Image

from dbrun.embedded import subject_names, subject_path
from dbrun.embedded.drawn_subjects import DRAWN, write
from dbrun.embedded.places import PLACES


def test_every_subject_that_is_drawn_is_shipped() -> None:
    assert subject_names() == tuple(sorted(DRAWN))


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_a_subject_has_five_pictures_in_five_places_each_with_its_prompt(name: str) -> None:
    folder = subject_path(name)
    pictures = sorted(folder.glob("*.png"))
    prompts = [path.with_suffix(".txt").read_text().strip() for path in pictures]
    assert len(pictures) == 5 and len(set(prompts)) == 5
    assert {path.suffix for path in folder.iterdir()} == {".png", ".txt"}
    assert all(Image.open(path).size == (64, 64) for path in pictures)
    shown = [place for place in PLACES if any(prompt.endswith(place) for prompt in prompts)]
    assert len(shown) == 5 and len(PLACES) - len(shown) >= 5


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_drawing_again_gives_the_shipped_pictures(name: str, tmp_path: Path) -> None:
    write(tmp_path, DRAWN[name])
    for path in tmp_path.glob("*.png"):
        assert Image.open(path).tobytes() == Image.open(subject_path(name) / path.name).tobytes()
    for path in tmp_path.glob("*.txt"):
        assert path.read_text() == (subject_path(name) / path.name).read_text()


def test_an_unknown_subject_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="sks_dog"):
        subject_path("sks_unicorn")
