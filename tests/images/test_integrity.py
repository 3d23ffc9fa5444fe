"""Is a picture that is judged by its file alone judged as by its pixels?"""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from random import Random
from zlib import compress, crc32

import pytest
from PIL import Image

from dbrun.errors import RecipeError
from dbrun.images.validation import validate_picture

NOISE = Image.effect_noise((60, 40), 90).convert("RGB")


def saved(kind: str, **options: object) -> bytes:
    NOISE.save(out := BytesIO(), kind, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))


def spoilt() -> bytes:
    """A PNG whose checksums are right, and whose pixels are cut off."""
    head, rows = struct.pack(">IIBBBBB", 60, 40, 8, 2, 0, 0, 0), Random(0).randbytes(40 * 181)
    return b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", head), chunk(b"IDAT", compress(rows)[:3000]),
                                            chunk(b"IEND", b"")])


WHOLE = {
    "plain.png": saved("PNG"), "turned.png": saved("PNG", exif=turned(6)), "palette.png": saved("PNG", bits=4),
    "baseline.jpg": saved("JPEG"), "progressive.jpg": saved("JPEG", progressive=True),
    "turned.jpg": saved("JPEG", exif=turned(8)), "trailing.jpg": saved("JPEG") + b"more of a camera's own",
}
UNTOLD = {
    "plain.webp": saved("WEBP"), "plain.bmp": saved("BMP"),
    "turned_late.png": saved("PNG")[:-12] + chunk(b"eXIf", turned(6)[6:]) + saved("PNG")[-12:],
}


@pytest.mark.parametrize("name", [*WHOLE, *UNTOLD])
def test_what_is_seen_of_it_is_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes({**WHOLE, **UNTOLD}[name])
    seen, decoded = validate_picture(path, decode=False), validate_picture(path)
    assert decoded.decoded and seen.decoded == (name in UNTOLD) and replace(seen, decoded=True) == decoded
    assert (seen.width, seen.height) == ((40, 60) if "turned" in name else (60, 40))


@pytest.mark.parametrize("name", [name for name in WHOLE if "trailing" not in name])
def test_wherever_it_is_cut_off_it_is_refused(tmp_path: Path, name: str) -> None:
    content, path = WHOLE[name], tmp_path / name
    for end in Random(0).sample(range(1, len(content)), 40):
        path.write_bytes(content[:end])
        for decode in (True, False):
            with pytest.raises(RecipeError):
                validate_picture(path, decode)


def test_a_flipped_bit_in_the_pixels_of_a_png_is_refused_as_decoding_does(tmp_path: Path) -> None:
    path, content = tmp_path / "a.png", WHOLE["plain.png"]
    for place in Random(0).sample(range(60, len(content) - 20), 20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1:])
        with pytest.raises(RecipeError, match="broken or cut off"):
            validate_picture(path, decode=False)


def test_pixels_that_are_spoilt_behind_good_checksums_are_found_by_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(spoilt())
    assert not validate_picture(path, decode=False).decoded
    with pytest.raises(RecipeError, match="broken or cut off"):
        validate_picture(path)
