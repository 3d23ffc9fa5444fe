"""Does every kind of picture file become the right upright RGB square?"""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from dbrun.errors import RecipeError
from dbrun.images.pixels import read_square

RED = "#ff0000"


def file(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    out = BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def colour(content: bytes, background: str = RED) -> tuple[int, ...]:
    pixels = np.asarray(read_square(content, 8, background))
    return tuple(int(v) for v in pixels[4, 4])


def test_a_transparent_picture_shows_the_background_and_no_hidden_colour() -> None:
    assert colour(file(Image.new("RGBA", (16, 16), (0, 255, 0, 0)))) == (255, 0, 0)
    assert colour(file(Image.new("RGBA", (16, 16), (0, 255, 0, 0))), "#102030") == (16, 32, 48)
    assert colour(file(Image.new("LA", (16, 16), (0, 128)))) == (127, 0, 0)


@pytest.mark.parametrize(("mode", "fill", "key"), [("RGB", (1, 2, 3), (1, 2, 3)), ("L", 7, 7), ("P", 0, 0)])
def test_a_transparent_colour_is_transparent(mode, fill, key) -> None:
    assert colour(file(Image.new(mode, (16, 16), fill), transparency=key)) == (255, 0, 0)


def test_a_palette_is_looked_up() -> None:
    picture = Image.new("P", (16, 16), 3)
    picture.putpalette([10, 20, 30] * 3 + [40, 50, 60] * 253)
    assert colour(file(picture)) == (40, 50, 60)


def test_cmyk_becomes_rgb() -> None:
    assert colour(file(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")) == (255, 0, 0)
    assert colour(file(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG"))[2] > 250


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(kind) -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    pixels = np.asarray(read_square(file(ramp, kind), 64, RED))
    assert pixels.min() == 0 and pixels.max() == 255 and abs(pixels.mean() - 127.5) < 1


def test_32_bit_pixels_are_refused() -> None:
    for picture in (Image.new("F", (16, 16), 0.5), Image.new("I", (16, 16), 2**20)):
        with pytest.raises(RecipeError, match="white"):
            read_square(file(picture, "TIFF"), 8, RED)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_obeyed(turn) -> None:
    """The pixels are stored turned; upright, the left half is white on every one of the eight."""
    upright = Image.new("RGB", (40, 20), "black")
    upright.paste("white", (0, 0, 20, 20))
    undo = {1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}[turn]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x112] = turn
    pixels = np.asarray(read_square(file(stored, "JPEG", exif=exif, quality=100), 20, RED))
    assert pixels[:, :8].mean() > 240 and pixels[:, 12:].mean() < 15


def test_a_profile_is_converted_to_srgb() -> None:
    """The same numbers under a profile with the primaries swapped are another colour."""
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = same.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")
    plain = Image.new("RGB", (16, 16), (100, 150, 200))
    assert colour(file(plain, icc_profile=same)) == (100, 150, 200)
    assert colour(file(plain, icc_profile=swapped)) == (200, 150, 100)
    see_through = Image.new("RGBA", (16, 16), (100, 150, 200, 0))
    assert colour(file(see_through, icc_profile=same)) == (255, 0, 0)


def test_a_profile_that_does_not_fit_is_passed_over() -> None:
    assert colour(file(Image.new("L", (16, 16), 90),
                       icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())) == (90, 90, 90)
    assert colour(file(Image.new("RGB", (16, 16), (9, 8, 7)), icc_profile=b"no profile")) == (9, 8, 7)


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (33, 32), (8, 8), (3, 5), (500, 9)])
def test_the_middle_of_any_shape_fills_the_square(size) -> None:
    picture = Image.new("RGB", size, "black")
    width, height = size
    inner = min(size)
    left, top = (width - inner) // 2, (height - inner) // 2
    picture.paste("white", (left, top, left + inner, top + inner))
    result = read_square(file(picture), 16, RED)
    assert result.size == (16, 16) and result.mode == "RGB"
    assert np.asarray(result)[2:-2, 2:-2].mean() > 250


def test_shrinking_averages() -> None:
    checks = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    pixels = np.asarray(read_square(file(checks), 16, RED)).astype(int)
    assert abs(pixels - 127).max() <= 3


@pytest.mark.parametrize("content", [b"", b"hello", file(Image.new("RGB", (64, 64), "red"), "JPEG")[:300],
                                     file(Image.effect_noise((64, 64), 50))[:900]])
def test_a_broken_file_is_named(content) -> None:
    with pytest.raises(RecipeError, match=r"^dog\.jpg cannot be read") as caught:
        read_square(content, 8, RED, "dog.jpg")
    assert "0x" not in caught.value.message


def test_equal_bytes_give_equal_pixels() -> None:
    content = file(Image.effect_noise((50, 40), 60).convert("RGB"))
    assert read_square(content, 24, RED).tobytes() == read_square(content, 24, RED).tobytes()
