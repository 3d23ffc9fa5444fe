"""How does a picture file become a square of upright RGB pixels?"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit grey; a plain convert would clip them to white."""


def square(content: bytes, resolution: int, background: str, name: str = "a picture") -> Image:
    """The picture as RGB, resolution × resolution: upright, in sRGB, over background, centre-cropped.

    content: the file's bytes; background: `#rrggbb`, put behind transparent pixels; name: what errors call it.
    Raises RecipeError for bytes that are no whole picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(content)) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
            picture = _over(_colours(picture, opened.info.get("icc_profile")), background)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "its bytes are no picture" if isinstance(error, UnidentifiedImageError) else error
        raise RecipeError(f"{name} cannot be read: {why}", fix="save it again as PNG or JPEG") from error
    return _cropped(picture, resolution)


def _colours(picture: Image, profile: bytes | None) -> Image:
    """The picture as RGB or RGBA, in sRGB."""
    if picture.mode in WIDE:
        picture = _narrow(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed white")
    if picture.mode in ("P", "PA", "1") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if profile:
        picture = _in_srgb(picture, profile)
    alpha = picture.mode in ("RGBA", "LA", "La", "RGBa")
    return picture.convert("RGBA" if alpha else "RGB")


def _narrow(picture: Image) -> Image:
    low, high = picture.getextrema()
    if not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16):
        raise ValueError("32-bit pixels have no fixed white")
    return picture.point(lambda value: value * (1 / 256), "L" if picture.mode != "I" else None).convert("L")


def _in_srgb(picture: Image, profile: bytes) -> Image:
    """The picture's colours converted from its own profile; one that does not fit is passed over."""
    from PIL import ImageCms

    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    solid = picture.convert({"RGBA": "RGB", "LA": "L"}.get(picture.mode, picture.mode))
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        converted = ImageCms.profileToProfile(solid, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    result = converted if converted is not None else solid
    if alpha is not None:
        result.putalpha(alpha)
    return result


def _over(picture: Image, background: str) -> Image:
    from PIL import Image

    if picture.mode != "RGBA":
        return picture
    behind = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(behind, picture).convert("RGB")


def _cropped(picture: Image, resolution: int) -> Image:
    """Short side to resolution by Lanczos, which averages when it shrinks; then the middle."""
    from PIL import Image

    width, height = picture.size
    scale = resolution / min(width, height)
    size = (max(resolution, round(width * scale)), max(resolution, round(height * scale)))
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - resolution) // 2, (size[1] - resolution) // 2
    return resized.crop((left, top, left + resolution, top + resolution))
