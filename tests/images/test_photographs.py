"""Photographs have a fine texture that drawings lack, whatever their size and file format."""

from pathlib import Path
from statistics import median

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dbrun.embedded import subject_names, subject_path
from dbrun.images.photographs import PHOTOGRAPH_TEXTURE, texture

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "dog6"


def test_pictures_of_the_embedded_base_are_no_photographs(tmp_path: Path) -> None:
    for name in subject_names():
        paths = sorted(subject_path(name).glob("*.png"))[:4]
        assert max(map(texture, paths)) < PHOTOGRAPH_TEXTURE
        enlarged = []
        for path in paths:
            with Image.open(path) as drawn:
                drawn.convert("RGB").resize((256, 256), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg")
            enlarged.append(texture(tmp_path / "large.jpg"))
        assert median(enlarged) < PHOTOGRAPH_TEXTURE


def test_texture_is_faint_and_everywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x.png"
    ramp = np.tile(np.linspace(40, 200, 300), (280, 1))
    for picture, least, most in ((ramp + rng.normal(0, 4, ramp.shape), 0.7, 1.0), (ramp, 0.0, 0.05)):
        Image.fromarray(picture.astype(np.uint8)).save(path)
        assert least <= texture(path) <= most
    cartoon = Image.new("RGBA", (900, 700), "skyblue")
    ImageDraw.Draw(cartoon).ellipse((200, 100, 700, 600), fill="brown", outline="black", width=9)
    cartoon.save(path)
    assert texture(path) < 0.1


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs of the shared data are not here")
def test_photographs_are_told_at_any_size(tmp_path: Path) -> None:
    paths = sorted(PHOTOS.glob("*.jpg"))[:3]
    assert median(map(texture, paths)) >= PHOTOGRAPH_TEXTURE
    small = []
    for path in paths:
        with Image.open(path) as photo:
            photo.draft("RGB", (256, 256))
            photo.resize((256, 256), Image.Resampling.BOX).save(tmp_path / "small.png")
        small.append(texture(tmp_path / "small.png"))
    assert median(small) >= PHOTOGRAPH_TEXTURE
