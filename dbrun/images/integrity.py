"""Is a picture's file whole, told without decoding a pixel?"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from PIL.Image import Image

PNG_SIGNATURE_BYTES = 8
METADATA_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks of a PNG that may say how it is turned; Pillow reads those behind the pixels only with the pixels."""
END_OF_IMAGE = b"\xff\xd9"


def is_complete(image: Image, data: bytes, pixels_at: int) -> bool:
    """Whether a picture is complete and all is known of it but its pixels; False where only decoding can tell.

    data: the file's bytes; pixels_at: where in them Pillow stopped reading when it opened the picture.
    """
    if image.format == "PNG":
        return _is_complete_png(data)
    # within the pixels of a JPEG no byte ff stands before d9
    return image.format == "JPEG" and data.find(END_OF_IMAGE, pixels_at) >= 0


def _is_complete_png(data: bytes) -> bool:
    """Whether every chunk has its checksum, none is missing at the end, and what is said stands before the pixels."""
    view, at, pixels = memoryview(data), PNG_SIGNATURE_BYTES, False
    while at + 12 <= len(data):
        kind, end = data[at + 4:at + 8], at + 12 + int.from_bytes(data[at:at + 4])
        if crc32(view[at + 4:end - 4]) != int.from_bytes(data[end - 4:end]) or (pixels and kind in METADATA_CHUNKS):
            return False
        if kind == b"IEND":
            return pixels
        pixels, at = pixels or kind == b"IDAT", end
    return False
