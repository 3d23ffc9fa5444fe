"""Is every picture that cannot be trained on refused, and every odd one named with what will be done to it?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images.validation import PictureInfo, validate_picture, validate_pictures

DOGS = Path(__file__).parents[2].parent / "shared" / "data" / "dog6"


def noise(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.effect_noise(size, 90).convert("RGB").convert(mode)


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_a_plain_photo_is_taken_without_a_word(tmp_path: Path) -> None:
    assert validate_picture(saved(noise(), tmp_path / "a.jpg")) == PictureInfo(60, 40, (), "JPEG")


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp"])
def test_a_truncated_picture_is_refused(tmp_path: Path, kind: str, keep: float) -> None:
    path = saved(noise(size=(200, 150)), tmp_path / f"a.{kind}")
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * keep)])
    with pytest.raises(RecipeError, match=rf"a\.{kind}: ") as caught:
        validate_picture(path)
    assert caught.value.fix and caught.value.exit_code == 2


@pytest.mark.parametrize(("content", "words"), [
    (b"not a picture", "found text, no picture"), (b"", "found an empty file"), ("höhe".encode(), "found text"),
    (bytes(range(256)) * 4, "data that is not a picture"), (b"\xff\xd8\xff\xe0", "found data that is not a picture"),
    (b"\x00\x00\x00 ", "found data that is not a picture"),
])
def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        validate_picture(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_a_tiny_picture_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=f"found {size[0]}×{size[1]} pixels"):
        validate_picture(saved(noise(size=size), tmp_path / "a.png"))
    assert validate_picture(saved(noise(size=(16, 16)), tmp_path / "b.png"))


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_decompression_bomb_is_refused_unread(tmp_path: Path, side: int) -> None:
    path = saved(Image.new("1", (side, side)), tmp_path / "a.png")
    with pytest.raises(RecipeError, match="pixels, allowed: 80,000,000"):
        validate_picture(path)


def rotated(orientation: int) -> dict[str, object]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize(("name", "picture", "options", "size", "words"), [
    ("cmyk.jpg", noise("CMYK"), {}, (60, 40), "CMYK is converted"),
    ("alpha.png", noise("RGBA"), {}, (60, 40), "background colour"),
    ("grey_alpha.png", noise("LA"), {}, (60, 40), "background colour"),
    ("turned.jpg", noise(), rotated(6), (40, 60), "turned upright"),
    ("flipped.jpg", noise(), rotated(3), (60, 40), "flipped upright"),
    ("grey.png", noise("L"), {}, (60, 40), "grey becomes RGB"),
    ("deep.png", noise("L").convert("I;16"), {}, (60, 40), "16-bit grey is scaled"),
    ("palette.png", noise("P"), {}, (60, 40), "palette becomes RGB"),
    ("clear.gif", noise("P"), {"transparency": 0}, (60, 40), "background colour"),
    ("moving.gif", noise("P"), {"save_all": True, "append_images": [noise("P")]}, (60, 40), "only the first frame"),
])
def test_an_odd_picture_is_taken_with_a_word(tmp_path, name, picture, options, size, words) -> None:
    seen = validate_picture(saved(picture, tmp_path / name, **options))
    assert (seen.width, seen.height) == size
    assert any(words in note for note in seen.notes)


@pytest.mark.parametrize(("mode", "words"), [("F", "floating-point"), ("I", "32-bit")])
def test_pixels_without_a_white_are_refused(tmp_path: Path, mode: str, words: str) -> None:
    picture = Image.new(mode, (40, 40), 70_000)
    with pytest.raises(RecipeError, match=f"found {words} pixels"):
        validate_picture(saved(picture, tmp_path / "a.tiff"))


def test_what_was_seen_can_be_kept_as_json(tmp_path: Path) -> None:
    seen = validate_picture(saved(noise("CMYK"), tmp_path / "a.jpg"))
    assert PictureInfo.from_data(json.loads(json.dumps(seen.as_data()))) == seen


def test_all_bad_pictures_are_told_at_once_and_good_ones_remembered(tmp_path: Path) -> None:
    good, known = saved(noise(), tmp_path / "good.png"), tmp_path / "known.png"
    bad, tiny = tmp_path / "bad.png", saved(noise(size=(1, 1)), tmp_path / "tiny.png")
    bad.write_text("no")
    learnt: dict[Path, PictureInfo] = {}
    memory = {known: PictureInfo(5, 5)}
    with pytest.raises(RecipeError, match="2 pictures cannot be used") as caught:
        validate_pictures([good, bad, known, tiny], memory.get, learnt.__setitem__)
    assert "bad.png" in str(caught.value) and "tiny.png" in str(caught.value)
    assert learnt == {good: PictureInfo(60, 40, kind="PNG")}
    assert validate_pictures([good, known], memory.get) == {good: PictureInfo(60, 40, kind="PNG"),
                                                            known: PictureInfo(5, 5)}


@pytest.mark.skipif(not DOGS.is_dir(), reason="the real photos are not here")
def test_real_photos_pass() -> None:
    photos = sorted(p for p in DOGS.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    assert len(validate_pictures(photos)) == len(photos) > 0


def test_importing_the_screen_loads_no_pillow() -> None:
    program = "import sys, dbrun.images.validation, dbrun.images.discover; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
