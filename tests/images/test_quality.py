"""Are blurred, black and nearly equal pictures told from others?"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dbrun.embedded import subject_names, subject_path
from dbrun.images.quality import (
    BLUR_THRESHOLD,
    MAX_HASH_DISTANCE,
    PictureQuality,
    blur,
    find_near_duplicates,
    measure_quality,
)

DOGS = Path(__file__).parents[2].parent / "shared" / "data" / "dog6"
SUBJECTS = {name: sorted(subject_path(name).glob("*.png")) for name in subject_names()}
DRAWN = [path for paths in SUBJECTS.values() for path in paths]
PHOTOS = sorted(DOGS.glob("*.jpg"))


def scene(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Large smooth shapes with hard edges and some grain, as a photo has them."""
    draw = np.random.default_rng(seed)
    rough = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
    grain = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    return Image.blend(rough, grain, 0.08)


def seen(picture: Image.Image, folder: Path, name: str = "a.png", **settings: object) -> PictureQuality:
    picture.save(folder / name, **settings)
    return measure_quality(folder / name)


@pytest.mark.parametrize("path", DRAWN + PHOTOS, ids=lambda p: p.name)
def test_a_sharp_picture_is_not_called_blurred_and_blurred_it_is(path: Path, tmp_path: Path) -> None:
    plain = measure_quality(path)
    assert plain.blur < BLUR_THRESHOLD - 0.15 and plain.shows == ""
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((512, 512))
    for radius in (3, 6):
        assert seen(picture.filter(ImageFilter.GaussianBlur(radius)), tmp_path).blur > BLUR_THRESHOLD


def test_blur_counts_in_each_direction_and_not_by_contrast() -> None:
    grey = np.asarray(scene().convert("L"), dtype=np.float32)
    assert blur(grey) == pytest.approx(blur(grey / 7 + 3), abs=1e-4)
    moved = np.asarray(scene().convert("L").filter(ImageFilter.Kernel((5, 5), [0] * 10 + [1] * 5 + [0] * 10)))
    assert blur(moved.astype(np.float32)) > blur(grey) + 0.1


@pytest.mark.parametrize(("picture", "shows"), [
    (Image.new("RGB", (80, 60), (3, 3, 3)), "black"), (Image.new("RGB", (80, 60), (180, 90, 20)), "of one colour"),
    (scene(), "")])
def test_a_picture_that_shows_nothing_is_said_to(picture: Image.Image, shows: str, tmp_path: Path) -> None:
    assert seen(picture, tmp_path).shows == shows
    # a bright speck is still no picture
    picture.putpixel((5, 5), (255, 255, 255))
    assert seen(picture, tmp_path).shows == shows


CHANGES = {
    "smaller": lambda p: p.resize((p.width // 3, p.height // 3)),
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "grey": lambda p: p.convert("L"),
    "cropped": lambda p: p.crop((2, 2, p.width - 2, p.height - 2)),
    "in a palette": lambda p: p.quantize(64),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("number", range(3))
def test_a_changed_copy_is_nearly_the_same(change: str, number: int, tmp_path: Path) -> None:
    one = scene(number)
    looks = [seen(scene(9), tmp_path), seen(one, tmp_path), seen(CHANGES[change](one), tmp_path)]
    assert find_near_duplicates(looks) == {2: (1, False)}


def test_a_mirrored_copy_is_told_as_such(tmp_path: Path) -> None:
    assert find_near_duplicates([seen(scene(), tmp_path), seen(ImageOps.mirror(scene()), tmp_path)]) == {1: (0, True)}


def test_a_jpeg_of_low_quality_is_nearly_the_same_and_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    stored = seen(scene(size=(1600, 1200)).transpose(Image.Transpose.ROTATE_90), tmp_path, "a.jpg", quality=30,
                  exif=exif)
    assert (stored.width, stored.height) == (1600, 1200)
    assert find_near_duplicates([seen(scene(size=(1600, 1200)), tmp_path), stored]) == {1: (0, False)}


@pytest.mark.parametrize("paths", [*SUBJECTS.values(), PHOTOS], ids=[*SUBJECTS, "photos"])
def test_different_pictures_of_one_subject_are_not_alike(paths: list[Path]) -> None:
    assert find_near_duplicates([measure_quality(path) for path in paths]) == {}


def test_pairs_are_found_as_by_counting_bits() -> None:
    draw = np.random.default_rng(0)
    numbers = [int.from_bytes(draw.bytes(32), "big") for _ in range(300)]
    for i in range(0, 300, 7):
        flips = sum(1 << int(bit) for bit in draw.choice(256, size=int(draw.integers(0, 60)), replace=False))
        numbers[i] = numbers[(i * 13 + 5) % 300] ^ flips
    looks = [PictureQuality(1, 1, 0.0, "", f"{n:064x}", f"{~n & (1 << 256) - 1:064x}") for n in numbers]
    wanted = {}
    for i, n in enumerate(numbers):
        near = [j for j in range(i) if (n ^ numbers[j]).bit_count() <= MAX_HASH_DISTANCE]
        if near:
            wanted[i] = near[0], False
    assert find_near_duplicates(looks) == wanted and len(wanted) > 10


def test_importing_it_loads_no_package() -> None:
    program = "import sys, dbrun.resolve.picture_report; assert not {'PIL', 'numpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
