"""Are thumbnails small, faithful, and of the crop that training sees?"""

import base64
from io import BytesIO

import pytest
from PIL import Image

from dbrun.images.buckets import CropBox, center_crop
from dbrun.images.grid import draw_grid, split_row
from dbrun.images.pixels import read_crop
from dbrun.images.thumbnails import every_nth, small_crop, thumbnail_url


def opened(url: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))


def encoded(picture: Image.Image, form: str) -> bytes:
    written = BytesIO()
    picture.save(written, format=form)
    return written.getvalue()


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of two pictures, 0 to 255, at a quarter of their size."""
    from PIL import ImageChops, ImageStat

    small = [picture.convert("RGB").resize((64, 64)) for picture in (a, b)]
    return max(ImageStat.Stat(ImageChops.difference(*small)).mean)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_crop_is_that_of_training(form: str, mirrored: bool) -> None:
    """Also of a large JPEG, which is decoded at a fraction of its size."""
    from dataclasses import replace

    ramp = Image.linear_gradient("L").resize((1600, 1200)).rotate(37, expand=False)
    picture = Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ramp.rotate(180)))
    box = replace(center_crop(picture.size, (512, 512)), mirrored=mirrored)
    assert isinstance(box, CropBox)
    shown = small_crop(encoded(picture, form), box, "#ffffff", "a.jpg")
    trained = read_crop(encoded(picture, form), box, picture.size, "#ffffff", "a.jpg")
    assert shown.size == (256, 256) and difference(shown, trained) < 3


def test_a_thumbnail_is_reduced_and_never_enlarged() -> None:
    assert opened(thumbnail_url(Image.new("RGBA", (600, 300)))).size == (256, 128)
    assert opened(thumbnail_url(Image.new("RGB", (64, 64)))).size == (64, 64)


def test_a_sheet_is_cut_into_its_pictures() -> None:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    sheet = draw_grid((("step 1234", pictures),), ["a", "a much longer caption " * 5, "c"])
    for picture, cut in zip(pictures, split_row(sheet, "step 1234", 3), strict=True):
        assert cut.size == (256, 256) and cut.getcolors() == [(256 * 256, picture.getpixel((0, 0)))]
    with pytest.raises(ValueError, match="no row of 300"):
        split_row(sheet, "step 1234", 300)


def test_some_of_many_are_spread_evenly() -> None:
    assert every_nth(3, 5) == [0, 1, 2] and every_nth(101, 3) == [0, 50, 100] and every_nth(9, 1) == [8]
