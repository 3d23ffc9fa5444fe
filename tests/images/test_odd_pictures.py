"""Does every kind of picture that people have come through upright and in its own colours, or is it refused by name?

One scene in many kinds of files: four corners of different colours and a dark bar at the top, so that any turn, flip or
swap of colours shows. Each file is written by Pillow or by hand, and compared with the scene itself.
"""

import struct
import sys
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from dbrun.errors import RecipeError
from dbrun.images.discover import list_pictures
from dbrun.images.pixels import read_square
from dbrun.images.validation import validate_picture

SIDE = 64
BACKGROUND = (255, 0, 255)
COLOURS = {"nw": (200, 40, 30), "ne": (40, 170, 60), "sw": (30, 60, 190), "se": (230, 200, 50)}


def scene() -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE))
    for i, colour in enumerate(COLOURS.values()):
        picture.paste(colour, (i % 2 * 32, i // 2 * 32, i % 2 * 32 + 32, i // 2 * 32 + 32))
    picture.paste((20, 20, 20), (8, 4, 56, 12))
    return picture


def grey() -> Image.Image:
    return scene().convert("L")


def saved(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    out = BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


def turned(orientation: int, kind: str, **settings: Any) -> bytes:
    """Stored so that the orientation, and only it, makes the scene upright again."""
    move = Image.Transpose
    undo = {2: move.FLIP_LEFT_RIGHT, 3: move.ROTATE_180, 4: move.FLIP_TOP_BOTTOM, 5: move.TRANSPOSE,
            6: move.ROTATE_90, 7: move.TRANSVERSE, 8: move.ROTATE_270}[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    # pillow-heif writes the orientation as a property of the picture, but only where it is given bytes
    return saved(scene().transpose(undo), kind, exif=exif.tobytes() if kind == "HEIF" else exif, **settings)


def png(depth: int, colour: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand. colour: 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA; rows: [H, W, C] of that many bits."""
    height, width = rows.shape[:2]
    wide = rows.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    lines = b"".join(b"\0" + line.tobytes() for line in wide)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in every)


def tiff(rows: np.ndarray, photometric: int, bits: int) -> bytes:
    """A TIFF written by hand, uncompressed, little-endian. rows: [H, W, C]."""
    height, width, channels = rows.shape
    data = rows.astype("<u2" if bits == 16 else "u1").tobytes()
    depths = struct.pack(f"<{channels}H", *[bits] * channels)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8 if channels > 2 else bits),
               (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, 1, 8 + len(depths)), (277, 3, 1, channels),
               (278, 4, 1, height), (279, 4, 1, len(data))]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(depths) + len(data)) + depths + data + table


def deep(picture: Image.Image) -> np.ndarray:
    """The pixels in 16 bits, [H, W, C]; the low byte is noise, which no rounding may carry into the high one."""
    pixels = np.asarray(picture).astype(np.uint16)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels * 256 + np.random.default_rng(0).integers(0, 256, pixels.shape).astype(np.uint16)


def faded() -> Image.Image:
    """The scene with a see-through lower half, in which other colours are hidden."""
    picture = scene().convert("RGBA")
    picture.paste((1, 2, 3, 0), (0, 32, SIDE, SIDE))
    return picture


def over_background() -> Image.Image:
    picture = scene()
    picture.paste(BACKGROUND, (0, 32, SIDE, SIDE))
    return picture


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """A profile whose red and blue primaries have changed places."""
    return srgb().replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")


def swapped() -> Image.Image:
    return Image.merge("RGB", scene().split()[::-1])


def in_lab() -> Image.Image:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    return ImageCms.applyTransform(scene(), to_lab)


def frames(kind: str, **settings: Any) -> bytes:
    """The scene, then two other pictures."""
    return saved(scene(), kind, save_all=True, append_images=[swapped(), swapped().rotate(90)], duration=50, **settings)


def key_colour() -> bytes:
    """RGB whose tRNS names one colour, that of the lower half."""
    picture = scene()
    picture.paste((9, 9, 9), (0, 32, SIDE, SIDE))
    return saved(picture, "PNG", transparency=(9, 9, 9))


def half_offset_gif() -> bytes:
    """A GIF whose first frame fills only the upper half of its canvas; the rest is see-through."""
    upper = scene().crop((0, 0, SIDE, 32)).quantize(64)
    data = bytearray(saved(upper, "GIF", transparency=63))
    data[6:10] = struct.pack("<HH", SIDE, SIDE)
    return bytes(data)


Make = Callable[[], bytes]
GREY, SAME, OVER = (lambda: grey().convert("RGB")), scene, over_background

GOOD: dict[str, tuple[Make, Callable[[], Image.Image], int]] = {
    "plain.png": (lambda: saved(scene(), "PNG"), SAME, 0),
    "plain.bmp": (lambda: saved(scene(), "BMP"), SAME, 0),
    "plain.tif": (lambda: saved(scene(), "TIFF"), SAME, 0),
    "lzw.tiff": (lambda: saved(scene(), "TIFF", compression="tiff_lzw"), SAME, 0),
    "jpeg_in.tif": (lambda: saved(scene(), "TIFF", compression="jpeg", quality=95), SAME, 12),
    "baseline.jpg": (lambda: saved(scene(), "JPEG", quality=95), SAME, 12),
    "progressive.jpeg": (lambda: saved(scene(), "JPEG", quality=95, progressive=True, subsampling=2), SAME, 20),
    "UPPER.JPG": (lambda: saved(scene(), "JPEG", quality=95, subsampling=0), SAME, 12),
    "wrong_suffix.jpg": (lambda: saved(scene(), "PNG"), SAME, 0),
    "lossless.webp": (lambda: saved(scene(), "WEBP", lossless=True), SAME, 0),
    "lossy.webp": (lambda: saved(scene(), "WEBP", quality=95), SAME, 25),
    **{f"turned{n}.jpg": (lambda n=n: turned(n, "JPEG", quality=95, subsampling=0), SAME, 12) for n in range(2, 9)},
    "turned6.png": (lambda: turned(6, "PNG"), SAME, 0),
    "turned8.webp": (lambda: turned(8, "WEBP", lossless=True), SAME, 0),
    "turned5.tif": (lambda: turned(5, "TIFF"), SAME, 0),
    "srgb.png": (lambda: saved(scene(), "PNG", icc_profile=srgb()), SAME, 1),
    "other_primaries.png": (lambda: saved(swapped(), "PNG", icc_profile=swapped_profile()), SAME, 2),
    "other_primaries.jpg": (lambda: saved(swapped(), "JPEG", quality=97, subsampling=0,
                                          icc_profile=swapped_profile()), SAME, 12),
    "other_primaries_see_through.png": (
        lambda: saved(Image.merge("RGBA", (*faded().split()[2::-1], faded().split()[3])), "PNG",
                      icc_profile=swapped_profile()), OVER, 2),
    "nonsense_profile.png": (lambda: saved(scene(), "PNG", icc_profile=b"no profile"), SAME, 0),
    "see_through.png": (lambda: saved(faded(), "PNG"), OVER, 0),
    "see_through.webp": (lambda: saved(faded(), "WEBP", lossless=True), OVER, 0),
    "see_through.tif": (lambda: saved(faded(), "TIFF"), OVER, 0),
    "key_colour.png": (key_colour, OVER, 0),
    "half_offset.gif": (half_offset_gif, OVER, 0),
    "deep.png": (lambda: png(16, 2, deep(scene())), SAME, 1),
    "deep_see_through.png": (lambda: png(16, 6, deep(faded()) * np.uint16([1, 1, 1, 0])
                                         + np.asarray(faded())[..., 3:].astype(np.uint16) * np.uint16([0, 0, 0, 257])),
                             OVER, 1),
    "deep_grey.png": (lambda: png(16, 0, deep(grey())), GREY, 1),
    "deep.tif": (lambda: tiff(deep(scene()), 2, 16), SAME, 1),
    "deep_grey.tif": (lambda: saved(Image.fromarray(deep(grey())[..., 0]), "TIFF"), GREY, 1),
    "grey.jpg": (lambda: saved(grey(), "JPEG", quality=97), GREY, 12),
    "grey_alpha.png": (lambda: saved(faded().convert("LA"), "PNG"),
                       lambda: Image.composite(Image.new("RGB", (SIDE, SIDE), BACKGROUND), GREY(),
                                               faded().getchannel("A").point(lambda a: 255 - a)), 0),
    "one_bit.png": (lambda: saved(scene().convert("1", dither=Image.Dither.NONE), "PNG"),
                    lambda: scene().convert("1", dither=Image.Dither.NONE).convert("RGB"), 0),
    "cmyk.jpg": (lambda: saved(scene().convert("CMYK"), "JPEG", quality=97), SAME, 14),
    "cmyk.tif": (lambda: saved(scene().convert("CMYK"), "TIFF"), SAME, 2),
    "lab.tif": (lambda: saved(in_lab(), "TIFF"), SAME, 4),
    "palette.png": (lambda: saved(scene().quantize(16), "PNG"), SAME, 2),
    "palette.bmp": (lambda: saved(scene().quantize(16), "BMP"), SAME, 2),
    "palette.tif": (lambda: saved(scene().quantize(16), "TIFF"), SAME, 2),
    "animated.gif": (lambda: frames("GIF"), SAME, 2),
    "animated.webp": (lambda: frames("WEBP", lossless=True), SAME, 0),
    "animated.png": (lambda: frames("PNG"), SAME, 0),
    "pages.tif": (lambda: frames("TIFF"), SAME, 0),
    "several.jpg": (lambda: frames("MPO", quality=95, subsampling=0), SAME, 12),
}
if features.check("avif"):
    GOOD |= {"plain.avif": (lambda: saved(scene(), "AVIF", quality=95), SAME, 25),
             "turned6.avif": (lambda: turned(6, "AVIF", quality=95), SAME, 25)}
if find_spec("pillow_heif"):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    GOOD |= {"plain.heic": (lambda: saved(scene(), "HEIF", quality=95), SAME, 25),
             "turned6.heif": (lambda: turned(6, "HEIF", quality=95), SAME, 25)}
ANIMATED = [name for name in GOOD if name.startswith(("animated", "pages", "several"))]

BAD: dict[str, tuple[Make, str]] = {
    "float.tif": (lambda: saved(Image.new("F", (SIDE, SIDE), 0.5), "TIFF"), "floating-point pixels"),
    "wide.tif": (lambda: saved(Image.new("I", (SIDE, SIDE), 70_000), "TIFF"), "32-bit pixels"),
    "cut.jpg": (lambda: saved(scene(), "JPEG", quality=95)[:900], "broken or cut off"),
    "cut.png": (lambda: saved(Image.effect_noise((SIDE, SIDE), 90), "PNG")[:1500], "broken or cut off"),
    "text.jpg": (lambda: b"I am no picture", "text, no picture"),
    "empty.png": (lambda: b"", "an empty file"),
    "thin.png": (lambda: saved(Image.new("RGB", (1, 400)), "PNG"), "found 1×400 pixels"),
    "page.tif": (lambda: b"%PDF-1.7\n\xff\x00" + bytes(100), "data that is not a picture"),
}


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_there_are_thirty_and_more() -> None:
    assert len(GOOD) >= 40 and len({make() for make, _, _ in GOOD.values()}) >= len(GOOD) - 1


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_picture_is_the_right_side_up_and_in_the_right_colours(tmp_path: Path, name: str) -> None:
    make, reference, tolerance = GOOD[name]
    path = file(tmp_path, name, make())
    assert [p.path for p in list_pictures(tmp_path).pictures] == [path]
    seen = validate_picture(path)
    assert (seen.width, seen.height) == (SIDE, SIDE)
    ours = np.asarray(read_square(path.read_bytes(), SIDE, "#ff00ff", name)).astype(int)
    wanted = np.asarray(reference()).astype(int)
    # compression blurs edges, so judge what lies between them
    flat = np.ones((SIDE, SIDE), bool)
    for edge in (0, 4, 12, 32, SIDE):
        flat[max(0, edge - 3):edge + 3] = False
    for edge in (0, 8, 32, 56, SIDE):
        flat[:, max(0, edge - 3):edge + 3] = False
    where = np.ones((SIDE, SIDE), bool) if tolerance <= 4 else flat
    assert np.abs(ours - wanted)[where].max() <= tolerance


@pytest.mark.parametrize("name", ANIMATED)
def test_that_only_the_first_of_several_is_used_is_said(tmp_path: Path, name: str) -> None:
    assert any("first frame" in note for note in validate_picture(file(tmp_path, name, GOOD[name][0]())).notes)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str) -> None:
    make, words = BAD[name]
    with pytest.raises(RecipeError) as caught:
        validate_picture(file(tmp_path, name, make()))
    assert name in str(caught.value) and words in str(caught.value) and caught.value.fix


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_a_heic_without_its_package_is_refused_with_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = file(tmp_path, "phone.heic", HEIC)
    for read in (validate_picture, lambda path: read_square(path.read_bytes(), SIDE, "#ff00ff", path.name)):
        with pytest.raises(RecipeError, match=r"phone\.heic: found a HEIC picture, which only the package") as caught:
            read(path)
        assert caught.value.fix is not None and "pip install 'dbrun[heif]'" in caught.value.fix


def test_an_avif_that_pillow_cannot_read_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(RecipeError, match=r"a\.avif: found an AVIF picture"):
        validate_picture(file(tmp_path, "a.avif", HEIC.replace(b"heic", b"avif")))
