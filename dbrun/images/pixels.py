"""How does a picture file become upright RGB pixels of the shape that is asked for?"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox, center_crop
from dbrun.images.decoders import HEADER_BYTES, register_decoder

if TYPE_CHECKING:
    from PIL.Image import Image

MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit grey; a plain convert would clip them to white."""


def read_square(content: bytes, resolution: int, background: str, name: str = "a picture") -> Image:
    """The picture as RGB, resolution × resolution: upright, in sRGB, over background, centre-cropped.

    content: the file's bytes; background: `#rrggbb`, put behind transparent pixels; name: what errors call it.
    Raises RecipeError for bytes that are no whole picture.
    """
    picture = composite_over(read_upright(content, name), background)
    return _apply_crop(picture, center_crop(picture.size, (resolution, resolution)))


def read_crop(content: bytes, frame: CropBox, size: tuple[int, int], background: str, name: str) -> Image:
    """As `read_square`, cut as the frame says, which was made for a picture of this size. Raises RecipeError."""
    picture = composite_over(read_upright(content, name), background)
    if picture.size != size:
        raise RecipeError(f"{name}: found {picture.width}×{picture.height} pixels, expected {size[0]}×{size[1]}",
                          fix="save it again as PNG or JPEG")
    return _apply_crop(picture, frame)


def read_upright(content: bytes, name: str) -> Image:
    """The whole picture as RGB or RGBA, upright and in sRGB. Raises RecipeError for bytes that are no whole picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    register_decoder(content[:HEADER_BYTES], name)
    try:
        with Image.open(BytesIO(content)) as opened:
            opened.load()
            return _to_srgb(ImageOps.exif_transpose(opened), opened.info.get("icc_profile"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        why = "its bytes are no picture" if isinstance(error, UnidentifiedImageError) else error
        raise RecipeError(f"{name} cannot be read: {why}", fix="save it again as PNG or JPEG") from error


def _to_srgb(picture: Image, profile: bytes | None) -> Image:
    """The picture as RGB or RGBA, in sRGB."""
    if picture.mode in MODES_16_BIT:
        picture = _to_8_bit(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed white")
    if picture.mode in ("P", "PA", "1") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if profile:
        picture = _apply_profile(picture, profile)
    alpha = picture.mode in ("RGBA", "LA", "La", "RGBa")
    return picture.convert("RGBA" if alpha else "RGB")


def _to_8_bit(picture: Image) -> Image:
    low, high = picture.getextrema()
    if not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16):
        raise ValueError("32-bit pixels have no fixed white")
    return picture.point(lambda value: value * (1 / 256), "L" if picture.mode != "I" else None).convert("L")


def _apply_profile(picture: Image, profile: bytes) -> Image:
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


def composite_over(picture: Image, background: str) -> Image:
    """The picture as RGB, over background (`#rrggbb`) where it is transparent."""
    from PIL import Image

    if picture.mode != "RGBA":
        return picture
    behind = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(behind, picture).convert("RGB")


def _apply_crop(picture: Image, frame: CropBox) -> Image:
    """What the frame shows, resized by Lanczos, which averages when it shrinks."""
    from PIL import Image, ImageOps

    resized = picture.resize(frame.resized_size, Image.Resampling.LANCZOS)
    (left, top), (width, height) = (frame.left, frame.top), frame.size
    shown = resized.crop((left, top, left + width, top + height))
    return ImageOps.mirror(shown) if frame.mirrored else shown
