"""Does a contact sheet show every picture in full, with all its texts, in letters that the font has?"""

import numpy as np
from PIL import Image

from dbrun.images.contact_sheet import MAX_COLUMNS, SheetCell, SheetSection, draw_contact_sheet
from dbrun.images.fonts import load_font_for
from dbrun.images.grid import load_font


def count_pixels(page: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(page) == colour).all(-1).sum())


def test_pictures_of_all_shapes_are_shown_whole_and_small_ones_enlarged() -> None:
    shapes = {"red": (256, 64), "lime": (100, 256), "blue": (64, 64)}
    pictures = [Image.new("RGB", size, colour) for colour, size in shapes.items()]
    cells = [SheetCell(picture, "a dog") for picture in pictures] * (MAX_COLUMNS // 2)
    page = draw_contact_sheet([SheetSection("all", cells), SheetSection("class", cells[:1])])
    assert count_pixels(page, (255, 0, 0)) == 4 * 256 * 64
    assert count_pixels(page, (0, 255, 0)) == 3 * 100 * 256
    assert count_pixels(page, (0, 0, 255)) == 3 * 256 * 256


def test_each_text_makes_room_for_itself() -> None:
    gone = SheetCell(None, "a dog")
    heights = [draw_contact_sheet([SheetSection("all", [cell])]).height for cell in (
        gone, SheetCell(None, "a dog", ("a.png",)), SheetCell(None, "a dog", ("a.png",), ("blurred", "tiny")))]
    line = heights[1] - heights[0]
    assert line > 10 and heights[2] - heights[1] == 2 * line


def test_a_font_of_the_system_is_taken_only_for_letters_that_the_own_one_lacks() -> None:
    own = load_font(15)
    assert bytes(load_font_for(["a dog"], 15).getmask("a dog")) == bytes(own.getmask("a dog"))
    assert load_font_for(["собака"], 15).getlength("собака") > 0
