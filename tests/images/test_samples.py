"""Are sample pictures kept so that exports can be laid side by side, and only those that belong together?"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbrun.errors import UsageError
from dbrun.images.grid import draw_grid
from dbrun.images.samples import SampleSettings, comparison_grid, read_sample_settings, write_samples

DRAWN = SampleSettings(("a dog", "a cat"), seed=3, steps=10, guidance=4.0)


def plain(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour) for colour in colours]


def export(folder: Path, *adapted: str, drawn: SampleSettings = DRAWN,
           base: tuple[str, str] = ("#101010", "#202020")) -> Path:
    write_samples(folder, drawn, {"base": plain(*base), "adapted": plain(*adapted)})
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert read_sample_settings(export(tmp_path, "red", "blue")) == DRAWN
    pixel = Image.open(tmp_path / "samples" / "adapted" / "01.png").getpixel((5, 5))
    assert pixel == (0, 0, 255)


def test_the_base_comes_first_then_a_row_for_each_export(tmp_path: Path) -> None:
    exports = {"kept": export(tmp_path / "one", "red", "blue"), "lost": export(tmp_path / "two", "lime", "yellow")}
    rows = [("base", plain("#101010", "#202020")), ("kept", plain("red", "blue")), ("lost", plain("lime", "yellow"))]
    assert np.array_equal(np.asarray(comparison_grid(exports)), np.asarray(draw_grid(rows, DRAWN.prompts)))


@pytest.mark.parametrize("change", [{"prompts": ("a dog", "a fish")}, {"seed": 4}, {"steps": 9}, {"guidance": 3.0}])
def test_exports_that_were_drawn_otherwise_are_not_compared(tmp_path: Path, change: dict[str, object]) -> None:
    exports = {"one": export(tmp_path / "one", "red", "blue"),
               "two": export(tmp_path / "two", "red", "blue", drawn=replace(DRAWN, **change))}
    with pytest.raises(UsageError, match=next(iter(change))):
        comparison_grid(exports)


def test_exports_of_different_bases_are_not_compared(tmp_path: Path) -> None:
    exports = {"one": export(tmp_path / "one", "red", "blue"),
               "two": export(tmp_path / "two", "red", "blue", base=("#101010", "#212121"))}
    with pytest.raises(UsageError, match="different bases"):
        comparison_grid(exports)


def test_a_folder_without_samples_or_with_one_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sample pictures"):
        comparison_grid({"one": tmp_path})
    home = export(tmp_path / "one", "red", "blue")
    (home / "samples" / "adapted" / "00.png").unlink()
    with pytest.raises(UsageError, match=r"adapted/00\.png is missing"):
        comparison_grid({"one": home})
