"""Are the shipped subjects complete, and exactly what the code draws?"""

from dataclasses import fields, replace
from pathlib import Path
from random import Random

import pytest
from judge import NEVER_TRAINED
from PIL import Image

from dbrun.embedded import subject_names, subject_path
from dbrun.embedded.making.brush import Canvas, Frame
from dbrun.embedded.making.captions import caption_words
from dbrun.embedded.making.drawn_subjects import DRAWN_SUBJECTS, write_subject
from dbrun.embedded.making.places import PLACES
from dbrun.embedded.making.screen_print import INKS, screen_print
from dbrun.embedded.making.toy_car import TOY, Paint, draw_painted_car


def test_every_subject_that_is_drawn_is_shipped() -> None:
    assert subject_names() == tuple(sorted(DRAWN_SUBJECTS))


@pytest.mark.parametrize("name", sorted(DRAWN_SUBJECTS))
def test_a_subject_has_pictures_in_different_places_each_with_its_prompt(name: str) -> None:
    folder = subject_path(name)
    pictures = sorted(folder.glob("*.png"))
    prompts = [path.with_suffix(".txt").read_text().strip() for path in pictures]
    assert len(pictures) == len(set(prompts)) == len(DRAWN_SUBJECTS[name].views)
    assert {path.suffix for path in folder.iterdir()} == {".png", ".txt"}
    assert all(Image.open(path).size == (64, 64) for path in pictures)
    assert len(shown(prompts)) == len(pictures)


@pytest.mark.parametrize("name", ["sks_dog", "zwx_car"])
def test_five_places_are_left_to_show_what_was_learnt(name: str) -> None:
    prompts = [path.read_text() for path in subject_path(name).glob("*.txt")]
    assert len(prompts) == 5 and set(shown(prompts)).isdisjoint(NEVER_TRAINED) and len(NEVER_TRAINED) == 5


def shown(prompts: list[str]) -> list[str]:
    """The places that prompts name."""
    return [place for place in PLACES if any(f" {place}" in prompt for prompt in prompts)]


@pytest.mark.parametrize("name", sorted(DRAWN_SUBJECTS))
def test_drawing_again_gives_the_shipped_pictures(name: str, tmp_path: Path) -> None:
    write_subject(tmp_path, DRAWN_SUBJECTS[name])
    for path in tmp_path.glob("*.png"):
        assert Image.open(path).tobytes() == Image.open(subject_path(name) / path.name).tobytes()
    for path in tmp_path.glob("*.txt"):
        assert path.read_text() == (subject_path(name) / path.name).read_text()


def test_an_unknown_subject_is_answered_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="sks_dog"):
        subject_path("sks_unicorn")


def test_every_word_of_a_subjects_prompts_is_one_token_of_the_base() -> None:
    for name in subject_names():
        prompts = [path.read_text().split() for path in subject_path(name).glob("*.txt")]
        assert {word for prompt in prompts for word in prompt} <= set(caption_words())


@pytest.mark.parametrize("part", [field.name for field in fields(Paint)])
def test_each_part_of_the_cars_paint_shows(part: str) -> None:
    def painted(paint: Paint) -> bytes:
        canvas = Canvas()
        draw_painted_car(canvas, paint, Frame((32.0, 57.0)), Random(0))
        return canvas.to_image().tobytes()

    assert painted(TOY) != painted(replace(TOY, **{part: (1, 2, 3)}))


def test_a_print_has_four_inks_and_keeps_the_order_of_brightness() -> None:
    grey = Image.new("L", (256, 1))
    grey.putdata(range(256))
    printed = screen_print(grey.convert("RGB"))
    colours = [printed.getpixel((level, 0)) for level in range(256)]
    assert colours[0] == INKS[0] and colours[255] == INKS[-1] and set(INKS) <= set(colours)
    brightness = [printed.convert("L").getpixel((level, 0)) for level in range(256)]
    assert brightness == sorted(brightness)


def test_a_print_has_no_colour_of_the_picture() -> None:
    red, cyan = (Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 86, 86)))
    assert red.convert("L").getpixel((0, 0)) == cyan.convert("L").getpixel((0, 0))
    assert screen_print(red).tobytes() == screen_print(cyan).tobytes()
