"""Are pictures laid out where their captions and labels say, and is the file the same each time?"""

import numpy as np
from PIL import Image

from dbrun.images.grid import MAX_CAPTION_LINES, display_side, draw_grid, load_font, save_png, wrap_text


def test_every_picture_is_shown_enlarged_in_its_row_and_column() -> None:
    colours = [["#ff0000", "#00ff00", "#0000ff"], ["#ffff00", "#ff00ff", "#00ffff"]]
    rows = [(label, [Image.new("RGB", (64, 64), c) for c in line])
            for label, line in zip(("base", "adapted"), colours, strict=True)]
    page = np.asarray(draw_grid(rows, ["one", "two", "three"]))
    places = {}
    for line in colours:
        for c in line:
            rgb = np.array([int(c[i:i + 2], 16) for i in (1, 3, 5)])
            ys, xs = np.nonzero((page == rgb).all(-1))
            assert len(ys) == 256 * 256, "64 pixels a side, enlarged four times"
            places[c] = (ys.min(), xs.min())
    for upper, lower in zip(*colours, strict=True):
        assert places[upper][1] == places[lower][1] and places[upper][0] < places[lower][0]
    lefts = [places[c][1] for c in colours[0]]
    assert lefts == sorted(lefts) and len({places[c][0] for c in colours[0]}) == 1


def test_captions_and_labels_are_drawn() -> None:
    rows = [("base", [Image.new("RGB", (64, 64), "white")])]
    blank, said = (np.asarray(draw_grid([(label, rows[0][1])], [caption]))
                   for label, caption in ((" ", " "), ("base", "a dog")))
    assert (blank != 255).sum() == 0 and (said < 100).sum() > 100


def test_long_captions_are_wrapped_and_cut() -> None:
    font = load_font(17)
    lines = wrap_text("a photo of sks dog " * 20, font, 200)
    assert len(lines) == MAX_CAPTION_LINES and lines[-1].endswith("…")
    assert all(font.getlength(line) <= 200 for line in lines)
    assert wrap_text("a dog", font, 200) == ["a dog"]
    assert wrap_text("x" * 200, font, 200)[0].endswith("…")


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_shrink() -> None:
    assert [display_side(s) for s in (32, 64, 96, 256, 512, 1024)] == [256, 256, 288, 256, 384, 384]


def test_equal_pages_are_equal_files(tmp_path) -> None:
    for name in ("a.png", "b.png"):
        save_png(draw_grid([("base", [Image.new("RGB", (64, 64), "red")])], ["x"]), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
