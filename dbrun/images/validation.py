"""Validation of picture files before anything expensive starts: size, completeness, kind of pixels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError
from dbrun.images.decoders import register_decoder
from dbrun.images.integrity import is_complete
from dbrun.input_file import open_file

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 16
"""Least side of a picture in pixels."""
MAX_PIXELS = 80_000_000
"""Most pixels of a picture: 240 MB once decoded; more is a mistake or a decompression bomb."""
SNIFF_BYTES = 512
"""First bytes of a file that are read to name its kind."""
ORIENTATION = 0x0112
"""EXIF tag of the orientation, 1 to 8."""
ROTATED_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
REMOVE_FIX = "remove it from the folder"
TRANSPARENCY_NOTE = "transparent parts get the background colour"


@dataclass(frozen=True)
class PictureInfo:
    """Facts of a picture that can be used. width, height: in pixels, upright; notes: conversions it will get.

    kind: Pillow's name of the file format; decoded: whether its pixels were read, not only the file's structure.
    """

    width: int
    height: int
    notes: tuple[str, ...] = ()
    kind: str = ""
    decoded: bool = True

    def as_data(self) -> dict[str, Any]:
        """Fields as JSON data."""
        return {"width": self.width, "height": self.height, "notes": list(self.notes), "kind": self.kind,
                "decoded": self.decoded}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PictureInfo:
        """Inverse of `as_data`."""
        return cls(data["width"], data["height"], tuple(data["notes"]), data["kind"], data["decoded"])


def validate_picture(path: Path, decode: bool = True) -> PictureInfo:
    """Check that a picture can be used. Raises RecipeError that says why it cannot.

    decode: read all pixels even where the file's structure already shows that it is complete (most PNG and JPEG).
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with open_file(path) as opened:
            data = opened.read()
        register_decoder(data[:SNIFF_BYTES], str(path))
        file = BytesIO(data)
        with Image.open(file) as image:
            # before anything is decoded: a bomb must not reach the memory
            _check_size(path, image)
            # mode I: only the values tell 16 bits from 32
            decode = decode or image.mode == "I" or not is_complete(image, data, file.tell())
            if decode:
                exif = image.getexif()
            else:
                # the base class's method: PngImageFile's own decodes all pixels first
                exif = Image.Image.getexif(image)
            orientation = int(exif.get(ORIENTATION, 1))
            notes, kind = _conversion_notes(image, orientation), image.format or ""
            width, height = image.size
            if decode:
                # a JPEG's draft still reads every bit, but computes only an eighth of the pixels of each side
                is_draft = image.draft(None, (1, 1)) is not None
                image.load()
                if not is_draft:
                    width, height = image.size
            _check_range(path, image)
    except RecipeError:
        raise
    except UnidentifiedImageError:
        raise RecipeError(f"{path}: found {_describe_content(path)}", fix=REMOVE_FIX) from None
    except Image.DecompressionBombError:
        raise RecipeError(f"{path}: found far too many pixels, allowed: {MAX_PIXELS:,}", fix="shrink it") from None
    # for a broken file Pillow's readers let almost any exception through: struct.error, SyntaxError, IndexError …
    except Exception as error:
        raise RecipeError(f"{path}: the picture is broken or cut off: {_first_line(error)}",
                          fix=f"copy or export it again, or {REMOVE_FIX}") from None
    if orientation in ROTATED_ORIENTATIONS:
        width, height = height, width
    return PictureInfo(width, height, notes, kind, decode)


def validate_pictures(paths: Iterable[Path], find_cached: Callable[[Path], PictureInfo | None] = lambda path: None,
                      on_validated: Callable[[Path, PictureInfo], None] = lambda path, seen: None,
                      extra_check: Callable[[Path], None] = lambda path: None,
                      decode: bool = True) -> dict[Path, PictureInfo]:
    """Check pictures. Raises one RecipeError that names every picture that cannot be used.

    find_cached: returns the result of an earlier check of the same content, or None; on_validated: called for every
    newly checked good picture; extra_check: one more check of decoded pictures, raises RecipeError; decode: as in
    `validate_picture`.
    """
    good: dict[Path, PictureInfo] = {}
    bad: list[RecipeError] = []
    with warnings.catch_warnings():
        # Pillow warns about harmless EXIF faults, in the middle of the program's output
        warnings.simplefilter("ignore")
        for path in paths:
            cached = find_cached(path)
            if cached is not None:
                good[path] = cached
                continue
            try:
                good[path] = validate_picture(path, decode)
                if good[path].decoded:
                    extra_check(path)
            except RecipeError as error:
                bad.append(error)
            else:
                on_validated(path, good[path])
    if len(bad) == 1:
        raise bad[0]
    if bad:
        lines = "\n".join(f"  {error.message}" for error in bad)
        raise RecipeError(f"{len(bad)} pictures cannot be used:\n{lines}",
                          fix="remove them from the folder, or repair them")
    return good


def _check_size(path: Path, image: Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {MAX_PIXELS:,}", fix="shrink it")
    if min(width, height) < MIN_SIDE:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {MIN_SIDE} and more", fix=REMOVE_FIX)


def _check_range(path: Path, image: Image) -> None:
    """Raise RecipeError for 32-bit and floating-point pixels, whose value for white is not defined."""
    is_wide = False
    if image.mode == "I":
        low, high = image.getextrema()
        is_wide = not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16)
    if is_wide or image.mode == "F":
        kind = "floating-point"
        if is_wide:
            kind = "32-bit"
        raise RecipeError(f"{path}: found {kind} pixels, allowed: 8 or 16 bits", fix="export it as PNG")


def _conversion_notes(image: Image, orientation: int) -> tuple[str, ...]:
    """Sentences about what the conversion to upright RGB changes. orientation: the picture's EXIF orientation."""
    notes = [
        (image.mode == "CMYK", "CMYK is converted to RGB"),
        (image.mode.startswith("I") or image.mode == "F", "16-bit grey is scaled to 8 bits"),
        (image.mode in ("1", "L", "LA"), "grey becomes RGB"),
        (image.mode in ("P", "PA"), "the palette becomes RGB"),
        (_has_transparency(image), TRANSPARENCY_NOTE),
        (orientation in ROTATED_ORIENTATIONS, "turned upright as its EXIF data say"),
        (orientation in (2, 3, 4), "flipped upright as its EXIF data say"),
        (getattr(image, "n_frames", 1) > 1, "only the first frame is used"),
    ]
    return tuple(text for applies, text in notes if applies)


def _has_transparency(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _read_header(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(SNIFF_BYTES)


def _describe_content(path: Path) -> str:
    """Kind of a file that is no picture, guessed from its first bytes."""
    data = _read_header(path)
    if not data:
        return "an empty file, no picture"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        # a UTF-8 character of up to four bytes that the limit cuts in two is still text
        is_cut = len(data) == SNIFF_BYTES and error.start > SNIFF_BYTES - 4
        if is_cut:
            return "text, no picture"
        return "data that is not a picture"
    # a zero byte is valid UTF-8, but no text file has one
    if b"\x00" in data:
        return "data that is not a picture"
    return "text, no picture"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
