"""Test whether a PNG or JPEG file is complete, without decoding its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from PIL.Image import Image

PNG_SIGNATURE_BYTES = 8
METADATA_CHUNKS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""PNG chunks that may hold the EXIF orientation; Pillow reads those after the pixels only with the pixels."""
END_OF_IMAGE = b"\xff\xd9"


def is_complete(image: Image, data: bytes, pixels_at: int) -> bool:
    """Whether the file is complete and its orientation is known; False where only decoding the pixels can tell.

    data: the file's bytes; pixels_at: the offset at which Pillow stopped reading when it opened the picture.
    """
    if image.format == "PNG":
        return _is_complete_png(data)
    # in the pixel data of a JPEG every byte ff is followed by 00 or a restart marker, so ff d9 is the end
    return image.format == "JPEG" and data.find(END_OF_IMAGE, pixels_at) >= 0


def _is_complete_png(data: bytes) -> bool:
    """Whether all checksums are right, the last chunk is there, and no metadata follows the pixels."""
    # a view: slices of the bytes themselves would copy the whole picture
    view = memoryview(data)
    start, has_pixels = PNG_SIGNATURE_BYTES, False
    while start + 12 <= len(data):
        # a chunk: length of the data (4 bytes), kind (4), data, checksum of kind and data (4)
        kind = data[start + 4:start + 8]
        end = start + 12 + int.from_bytes(data[start:start + 4])
        checksum = int.from_bytes(data[end - 4:end])
        if crc32(view[start + 4:end - 4]) != checksum:
            return False
        if has_pixels and kind in METADATA_CHUNKS:
            return False
        if kind == b"IEND":
            return has_pixels
        has_pixels = has_pixels or kind == b"IDAT"
        start = end
    return False
