"""Thumbnails: small copies of pictures and of their crops, also as `data:` URLs, so that a page needs no other file."""

from __future__ import annotations

import base64
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from dbrun.images.buckets import CropBox

THUMBNAIL_SIDE = 256
"""Longer side in pixels to which larger pictures are reduced."""
QUALITY = 82
"""JPEG quality, 1 to 95: at 256 pixels a photograph takes about 12 kB."""


def thumbnail_url(picture: Image, side: int = THUMBNAIL_SIDE) -> str:
    """The `data:` URL of a picture, reduced to `side` pixels where it is larger; equal pixels give equal text."""
    written = BytesIO()
    _reduced(picture, side).save(written, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def _reduced(picture: Image, side: int) -> Image:
    """A copy in RGB, reduced to `side` pixels where it is larger."""
    from PIL import Image

    # a copy, because `thumbnail` changes the picture; without metadata, which may hold a place or a name
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return small


def every_nth(count: int, limit: int) -> list[int]:
    """At most `limit` indices below count, evenly spread, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    if limit < 2:
        return [count - 1]
    return sorted({round(i * (count - 1) / (limit - 1)) for i in range(limit)})


def small_crop(content: bytes, box: CropBox | None, background: str, name: str) -> Image:
    """A picture's crop, or the whole picture without one: RGB, its longer side at most THUMBNAIL_SIDE pixels.

    content: the file's bytes; background: `#rrggbb`, for transparent pixels; name: the picture's name in errors.
    Raises RecipeError for bytes that are not a picture.
    """
    from PIL import Image, ImageOps

    from dbrun.images.pixels import composite_over, read_upright

    side = THUMBNAIL_SIDE
    picture = composite_over(read_upright(_drafted(content), name), background)
    if box is None:
        return _reduced(picture, side)
    # the box as it is on a picture of the thumbnail's size: a large photograph is never resized at its full size
    scale = min(1.0, side / max(box.size))
    width, height = (max(1, round(scale * length)) for length in box.resized_size)
    left, top = round(scale * box.left), round(scale * box.top)
    right, bottom = left + round(scale * box.size[0]), top + round(scale * box.size[1])
    cropped = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, right, bottom))
    if box.mirrored:
        cropped = ImageOps.mirror(cropped)
    return _reduced(cropped, side)


def _drafted(content: bytes) -> bytes:
    """A large JPEG at a fraction of its size, decoded without its high frequencies; other files unchanged."""
    from PIL import Image

    try:
        with Image.open(BytesIO(content)) as opened:
            if opened.format != "JPEG" or min(opened.size) < 4 * THUMBNAIL_SIDE:
                return content
            # ten times as fast as all pixels of a photograph of 12 megapixels
            opened.draft(opened.mode, (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
            written = BytesIO()
            kept = {key: opened.info[key] for key in ("exif", "icc_profile") if opened.info.get(key)}
            opened.save(written, format="JPEG", quality=95, **kept)
    # `read_upright` says what is wrong with the file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return content
    return written.getvalue()
