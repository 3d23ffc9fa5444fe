"""Is a mask found, read and laid over the same part of its picture that is shown?"""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox, center_crop
from dbrun.images.discover import list_pictures
from dbrun.images.masks import check_mask, find_mask_files, read_alpha, read_mask, shrink_mask


def half_white(size: tuple[int, int] = (80, 40)) -> Image.Image:
    """White on the left half."""
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def content(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = BytesIO()
    picture.save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("ending", [".mask.png", "-masklabel.png"])
def test_a_mask_beside_a_picture_is_its_mask_and_no_picture(tmp_path: Path, ending: str) -> None:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (80, 40)).save(tmp_path / name)
    half_white().save(tmp_path / f"a{ending}")
    half_white().save(tmp_path / f"gone{ending}")
    found = list_pictures(tmp_path)
    assert [p.path.name for p in found.pictures] == ["a.jpg", "b.jpg"]
    assert found.notes == (f"gone{ending} is ignored: it is a mask, and none of the pictures read here has the "
                           "same name",)
    assert find_mask_files(p.path for p in found.pictures) == {tmp_path / "a.jpg": tmp_path / f"a{ending}"}


def test_a_mask_is_found_whatever_its_case_and_unicode_form(tmp_path: Path) -> None:
    for name in ("IMG_1.JPG", "caf\u00e9.png"):
        Image.new("RGB", (80, 40)).save(tmp_path / name)
    for name in ("img_1.MASK.PNG", "cafe\u0301-masklabel.png"):
        half_white().save(tmp_path / name)
    found = list_pictures(tmp_path)
    assert found.notes == () and len(find_mask_files(p.path for p in found.pictures)) == 2
    half_white().save(tmp_path / "IMG_1.mask.png")
    with pytest.raises(RecipeError, match=r"IMG_1\.mask\.png and img_1\.MASK\.PNG have names that differ"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16"])
def test_a_mask_is_read_from_every_kind_of_grey(mode: str) -> None:
    mask = half_white()
    stored = Image.fromarray(np.array(mask, dtype=np.uint16) * 257) if mode == "I;16" else mask.convert(mode)
    pixels = np.asarray(read_mask(content(stored), "a.mask.png"))
    assert (pixels[:, :40] == 255).all() and (pixels[:, 40:] == 0).all()


def test_what_is_transparent_in_a_mask_is_black() -> None:
    stored = Image.new("RGBA", (80, 40), (255, 255, 255, 0))
    stored.paste((255, 255, 255, 255), (0, 0, 40, 40))
    pixels = np.asarray(read_mask(content(stored), "a.mask.png"))
    assert pixels[0, 0] == 255 and pixels[0, 79] == 0


def test_a_pictures_own_transparency_can_be_its_mask() -> None:
    stored = Image.new("RGBA", (80, 40), (1, 2, 3, 0))
    stored.paste((1, 2, 3, 255), (0, 0, 40, 40))
    found = read_alpha(content(stored), "a.png")
    assert found is not None and found.getpixel((0, 0)) == 255 and found.getpixel((79, 0)) == 0
    assert read_alpha(content(Image.new("RGB", (80, 40))), "a.png") is None


@pytest.mark.parametrize("empty", [Image.new("L", (80, 40)), Image.new("RGBA", (80, 40), (255, 255, 255, 0))])
def test_a_mask_that_shows_nothing_is_refused(tmp_path: Path, empty: Image.Image) -> None:
    empty.save(tmp_path / "a.mask.png")
    with pytest.raises(RecipeError, match=r"a\.mask\.png masks everything"):
        check_mask(tmp_path / "a.mask.png", (80, 40))
    if empty.mode == "RGBA":
        with pytest.raises(RecipeError, match="masks everything"):
            read_alpha(content(empty), "a.png")


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    half_white().save(tmp_path / "a.mask.png")
    check_mask(tmp_path / "a.mask.png", (80, 40))
    with pytest.raises(RecipeError, match="found 80×40 pixels, but its picture has 40×80"):
        check_mask(tmp_path / "a.mask.png", (40, 80))


@pytest.mark.parametrize(("frame", "wanted"), [
    (center_crop((80, 40), (32, 32)), [1, 1, 0, 0]),
    (CropBox((64, 32), 0, 0, (32, 32)), [1, 1, 1, 1]),
    (CropBox((64, 32), 32, 0, (32, 32)), [0, 0, 0, 0]),
    (CropBox((64, 32), 20, 0, (32, 32)), [1, 0.5, 0, 0]),
    (CropBox((64, 32), 20, 0, (32, 32), mirrored=True), [0, 0, 0.5, 1]),
])
def test_a_mask_is_cut_as_its_picture_is(frame: CropBox, wanted: list[float]) -> None:
    shown = np.asarray(shrink_mask(half_white(), frame, (4, 4))) / 255
    assert shown.shape == (4, 4) and np.abs(shown - wanted).max() < 0.01
