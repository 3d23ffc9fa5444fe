"""Whether a picture can be trained on, told before anything expensive starts."""

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

if TYPE_CHECKING:
    from PIL.Image import Image

MIN_SIDE = 16
MAX_PIXELS = 80_000_000
SNIFF_BYTES = 512
ORIENTATION = 0x0112
ROTATED_ORIENTATIONS = (5, 6, 7, 8)
"""EXIF orientations whose width is stored as height."""
REMOVE_FIX = "take it out of the folder"
TRANSPARENCY_NOTE = "transparent parts get the background colour"


@dataclass(frozen=True)
class PictureInfo:
    """A picture that can be used. width, height: pixels once upright; notes: what will be done to it.

    kind: Pillow's word for the kind of file; decoded: whether every pixel was read, and not only the file's frame.
    """

    width: int
    height: int
    notes: tuple[str, ...] = ()
    kind: str = ""
    decoded: bool = True

    def as_data(self) -> dict[str, Any]:
        """The same as JSON data."""
        return {"width": self.width, "height": self.height, "notes": list(self.notes), "kind": self.kind,
                "decoded": self.decoded}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PictureInfo:
        """What `as_data` made."""
        return cls(data["width"], data["height"], tuple(data["notes"]), data["kind"], data["decoded"])


def validate_picture(path: Path, decode: bool = True) -> PictureInfo:
    """Judge a picture; raises RecipeError that says why it cannot be used.

    decode: read it to its last pixel, also where its file is seen to be whole without; such are most PNG and JPEG.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        register_decoder(data[:SNIFF_BYTES], str(path))
        with Image.open(file := BytesIO(data)) as image:
            _check_size(path, image)
            decode = decode or image.mode == "I" or not is_complete(image, data, file.tell())
            # a PNG's own `getexif` decodes it
            turned = int((image.getexif() if decode else Image.Image.getexif(image)).get(ORIENTATION, 1))
            notes, kind, (width, height) = _conversion_notes(image, turned), image.format or "", image.size
            if decode:
                # of a JPEG all bits are read, but only an eighth of the pixels is made from them
                shrunk = image.draft(None, (1, 1)) is not None
                image.load()
                width, height = (width, height) if shrunk else image.size
            _check_range(path, image)
    except RecipeError:
        raise
    except UnidentifiedImageError:
        raise RecipeError(f"{path}: found {_describe_content(path)}", fix=REMOVE_FIX) from None
    except Image.DecompressionBombError:
        raise RecipeError(f"{path}: found far too many pixels, allowed: {MAX_PIXELS:,}", fix="shrink it") from None
    # Pillow's readers let almost any exception through for a broken file
    except Exception as error:
        raise RecipeError(f"{path}: the picture is broken or cut off: {_first_line(error)}",
                          fix=f"copy or export it again, or {REMOVE_FIX}") from None
    return PictureInfo(*((height, width) if turned in ROTATED_ORIENTATIONS else (width, height)), notes, kind, decode)


def validate_pictures(paths: Iterable[Path], find_cached: Callable[[Path], PictureInfo | None] = lambda path: None,
                      on_validated: Callable[[Path, PictureInfo], None] = lambda path, seen: None,
                      extra_check: Callable[[Path], None] = lambda path: None,
                      decode: bool = True) -> dict[Path, PictureInfo]:
    """Screen pictures; raises one RecipeError that names all that cannot be used.

    find_cached: what an earlier screening of the same content found; on_validated: told of every picture new and good;
    extra_check: another check of decoded pictures, which raises RecipeError; decode: as of `validate_picture`.
    """
    good: dict[Path, PictureInfo] = {}
    bad: list[RecipeError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            if (seen := find_cached(path)) is not None:
                good[path] = seen
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
        raise RecipeError(f"{len(bad)} pictures cannot be used:\n{lines}", fix="take them away, or mend them")
    return good


def _check_size(path: Path, image: Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {MAX_PIXELS:,}", fix="shrink it")
    if min(width, height) < MIN_SIDE:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {MIN_SIDE} and more", fix=REMOVE_FIX)


def _check_range(path: Path, image: Image) -> None:
    """Refuse pixels of which nobody knows how bright white is."""
    low, high = image.getextrema() if image.mode == "I" else (0, 0)
    wide = not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16)
    if wide or image.mode == "F":
        kind = "32-bit" if wide else "floating-point"
        raise RecipeError(f"{path}: found {kind} pixels, allowed: 8 or 16 bits", fix="export it as PNG")


def _conversion_notes(image: Image, turned: int) -> tuple[str, ...]:
    """What the conversion to upright RGB will do to a picture. turned: its EXIF orientation."""
    told = [
        (image.mode == "CMYK", "CMYK is converted to RGB"),
        (image.mode.startswith("I") or image.mode == "F", "16-bit grey is scaled to 8 bits"),
        (image.mode in ("1", "L", "LA"), "grey becomes RGB"),
        (image.mode in ("P", "PA"), "the palette becomes RGB"),
        (_has_transparency(image), TRANSPARENCY_NOTE),
        (turned in ROTATED_ORIENTATIONS, "turned upright as its EXIF data say"),
        (turned in (2, 3, 4), "flipped upright as its EXIF data say"),
        (getattr(image, "n_frames", 1) > 1, "only the first frame is used"),
    ]
    return tuple(text for applies, text in told if applies)


def _has_transparency(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _read_header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SNIFF_BYTES)


def _describe_content(path: Path) -> str:
    """What a file that is no picture holds, as far as its first bytes tell."""
    data = _read_header(path)
    if not data:
        return "an empty file, no picture"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(data) == SNIFF_BYTES and error.start > SNIFF_BYTES - 4
        return "text, no picture" if cut else "data that is no picture"
    return "data that is no picture" if b"\x00" in data else "text, no picture"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
