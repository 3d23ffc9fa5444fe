"""Decoding of picture files to upright sRGB pixels, cropped to the shape that training uses."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from dbrun.errors import RecipeError
from dbrun.images.buckets import CropBox, center_crop
from dbrun.images.decoders import HEADER_BYTES, register_decoder

if TYPE_CHECKING:
    from PIL.Image import Image

MODES_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit grey; `convert` would clip their values at 255, which is nearly all white."""


def read_square(content: bytes, resolution: int, background: str, name: str = "a picture") -> Image:
    """Read a picture as RGB of resolution × resolution pixels: upright, in sRGB, over background, centre-cropped.

    content: the file's bytes; background: `#rrggbb`, for transparent pixels; name: the picture's name in errors.
    Raises RecipeError for bytes that are not a complete picture.
    """
    picture = composite_over(read_upright(content, name), background)
    return _apply_crop(picture, center_crop(picture.size, (resolution, resolution)))


def read_crop(content: bytes, frame: CropBox, size: tuple[int, int], background: str, name: str) -> Image:
    """Read a picture as `read_square` does, but with the crop `frame`. size: (width, height) that frame was made for.

    Raises RecipeError for bytes that are not a complete picture, or a picture of another size.
    """
    picture = composite_over(read_upright(content, name), background)
    # frame was computed from the size in the file's header, which the decoded pixels need not have
    if picture.size != size:
        raise RecipeError(f"{name}: found {picture.width}×{picture.height} pixels, expected {size[0]}×{size[1]}",
                          fix="save it again as PNG or JPEG")
    return _apply_crop(picture, frame)


def read_upright(content: bytes, name: str) -> Image:
    """Read a picture as RGB or RGBA, upright, in sRGB. Raises RecipeError for bytes that are not a complete picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    register_decoder(content[:HEADER_BYTES], name)
    try:
        with Image.open(BytesIO(content)) as opened:
            opened.load()
            return _to_srgb(ImageOps.exif_transpose(opened), opened.info.get("icc_profile"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error)
        # Pillow's own text shows the address of a BytesIO object
        if isinstance(error, UnidentifiedImageError):
            reason = "its bytes are not a picture"
        raise RecipeError(f"{name} cannot be read: {reason}", fix="save it again as PNG or JPEG") from error


def _to_srgb(picture: Image, profile: bytes | None) -> Image:
    """Picture as RGB or RGBA, in sRGB. profile: its ICC profile. Raises ValueError for pixels without a known white."""
    if picture.mode in MODES_16_BIT:
        picture = _to_8_bit(picture)
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no fixed white")
    # palettes first: a profile applies to colours, not to indices
    if picture.mode in ("P", "PA", "1") or "transparency" in picture.info:
        mode = "RGB"
        if picture.has_transparency_data:
            mode = "RGBA"
        picture = picture.convert(mode)
    if profile:
        picture = _apply_profile(picture, profile)
    if picture.mode in ("RGBA", "LA", "La", "RGBa"):
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _to_8_bit(picture: Image) -> Image:
    """Picture of 16-bit grey as mode L. Raises ValueError for values outside of 16 bits."""
    low, high = picture.getextrema()
    # mode I holds 32 bits, but Pillow also uses it for 16-bit files
    if not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16):
        raise ValueError("32-bit pixels have no fixed white")
    # for mode I Pillow's `point` takes only a linear function and gives mode I again
    mode: str | None = "L"
    if picture.mode == "I":
        mode = None
    return picture.point(lambda value: value * (1 / 256), mode).convert("L")


def _apply_profile(picture: Image, profile: bytes) -> Image:
    """Picture with its colours converted from an ICC profile to sRGB; unchanged where the profile does not fit it."""
    from PIL import ImageCms

    # LittleCMS converts no alpha, so it is taken off and put back
    alpha = None
    if picture.mode in ("RGBA", "LA"):
        alpha = picture.getchannel("A")
    opaque_modes = {"RGBA": "RGB", "LA": "L"}
    solid = picture.convert(opaque_modes.get(picture.mode, picture.mode))
    try:
        source_profile = ImageCms.ImageCmsProfile(BytesIO(profile))
        target_profile = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(solid, source_profile, target_profile, outputMode="RGB")
    # a broken profile is no reason to refuse a picture: without it the colours are only a little off
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture
    # None: Pillow's stubs allow it for conversions in place
    result = solid
    if converted is not None:
        result = converted
    if alpha is not None:
        result.putalpha(alpha)
    return result


def composite_over(picture: Image, background: str) -> Image:
    """Picture as RGB, laid over background (`#rrggbb`) where it is transparent."""
    from PIL import Image

    if picture.mode != "RGBA":
        return picture
    behind = Image.new("RGBA", picture.size, background)
    return Image.alpha_composite(behind, picture).convert("RGB")


def _apply_crop(picture: Image, frame: CropBox) -> Image:
    """Crop `frame` of a picture, resized with Lanczos."""
    from PIL import Image, ImageOps

    # Pillow widens the filter when it shrinks, so there is no aliasing
    resized = picture.resize(frame.resized_size, Image.Resampling.LANCZOS)
    width, height = frame.size
    cropped = resized.crop((frame.left, frame.top, frame.left + width, frame.top + height))
    if frame.mirrored:
        return ImageOps.mirror(cropped)
    return cropped
