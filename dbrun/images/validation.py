"""Whether a picture can be trained on, told before anything expensive starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError
from dbrun.images.decoders import make_ready
from dbrun.images.integrity import is_whole

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 16
LARGEST = 80_000_000
HEAD = 512
ORIENTATION = 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations whose width is stored as height."""
AWAY = "take it out of the folder"
TRANSPARENT = "transparent parts get the background colour"


@dataclass(frozen=True)
class Screened:
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
    def from_data(cls, data: Mapping[str, Any]) -> Screened:
        """What `as_data` made."""
        return cls(data["width"], data["height"], tuple(data["notes"]), data["kind"], data["decoded"])


def screen(path: Path, decode: bool = True) -> Screened:
    """Judge a picture; raises RecipeError that says why it cannot be used.

    decode: read it to its last pixel, also where its file is seen to be whole without; such are most PNG and JPEG.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        make_ready(data[:HEAD], str(path))
        with Image.open(file := BytesIO(data)) as image:
            _check_size(path, image)
            decode = decode or image.mode == "I" or not is_whole(image, data, file.tell())
            # a PNG's own `getexif` decodes it
            turned = int((image.getexif() if decode else Image.Image.getexif(image)).get(ORIENTATION, 1))
            notes, kind, (width, height) = _notes(image, turned), image.format or "", image.size
            if decode:
                # of a JPEG all bits are read, but only an eighth of the pixels is made from them
                shrunk = image.draft(None, (1, 1)) is not None
                image.load()
                width, height = (width, height) if shrunk else image.size
            _check_range(path, image)
    except RecipeError:
        raise
    except UnidentifiedImageError:
        raise RecipeError(f"{path}: found {_content(path)}", fix=AWAY) from None
    except Image.DecompressionBombError:
        raise RecipeError(f"{path}: found far too many pixels, allowed: {LARGEST:,}", fix="shrink it") from None
    # Pillow's readers let almost any exception through for a broken file
    except Exception as error:
        raise RecipeError(f"{path}: the picture is broken or cut off: {_reason(error)}",
                          fix=f"copy or export it again, or {AWAY}") from None
    return Screened(*((height, width) if turned in SIDEWAYS else (width, height)), notes, kind, decode)


def screen_all(paths: Iterable[Path], known: Callable[[Path], Screened | None] = lambda path: None,
               learnt: Callable[[Path, Screened], None] = lambda path, seen: None,
               also: Callable[[Path], None] = lambda path: None, decode: bool = True) -> dict[Path, Screened]:
    """Screen pictures; raises one RecipeError that names all that cannot be used.

    known: what an earlier screening of the same content found; learnt: told of every picture new and good; also:
    another check of decoded pictures, which raises RecipeError; decode: as of `screen`.
    """
    good: dict[Path, Screened] = {}
    bad: list[RecipeError] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in paths:
            if (seen := known(path)) is not None:
                good[path] = seen
                continue
            try:
                good[path] = screen(path, decode)
                if good[path].decoded:
                    also(path)
            except RecipeError as error:
                bad.append(error)
            else:
                learnt(path, good[path])
    if len(bad) == 1:
        raise bad[0]
    if bad:
        lines = "\n".join(f"  {error.message}" for error in bad)
        raise RecipeError(f"{len(bad)} pictures cannot be used:\n{lines}", fix="take them away, or mend them")
    return good


def _check_size(path: Path, image: Image) -> None:
    width, height = image.size
    if width * height > LARGEST:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {LARGEST:,}", fix="shrink it")
    if min(width, height) < SMALLEST:
        raise RecipeError(f"{path}: found {width}×{height} pixels, allowed: {SMALLEST} and more", fix=AWAY)


def _check_range(path: Path, image: Image) -> None:
    """Refuse pixels of which nobody knows how bright white is."""
    low, high = image.getextrema() if image.mode == "I" else (0, 0)
    wide = not (isinstance(low, int) and isinstance(high, int) and low >= 0 and high < 2**16)
    if wide or image.mode == "F":
        kind = "32-bit" if wide else "floating-point"
        raise RecipeError(f"{path}: found {kind} pixels, allowed: 8 or 16 bits", fix="export it as PNG")


def _notes(image: Image, turned: int) -> tuple[str, ...]:
    """What the conversion to upright RGB will do to a picture. turned: its EXIF orientation."""
    told = [
        (image.mode == "CMYK", "CMYK is converted to RGB"),
        (image.mode.startswith("I") or image.mode == "F", "16-bit grey is scaled to 8 bits"),
        (image.mode in ("1", "L", "LA"), "grey becomes RGB"),
        (image.mode in ("P", "PA"), "the palette becomes RGB"),
        (_transparent(image), TRANSPARENT),
        (turned in SIDEWAYS, "turned upright as its EXIF data say"),
        (turned in (2, 3, 4), "flipped upright as its EXIF data say"),
        (getattr(image, "n_frames", 1) > 1, "only the first frame is used"),
    ]
    return tuple(text for applies, text in told if applies)


def _transparent(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _content(path: Path) -> str:
    """What a file that is no picture holds, as far as its first bytes tell."""
    data = _head(path)
    if not data:
        return "an empty file, no picture"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(data) == HEAD and error.start > HEAD - 4
        return "text, no picture" if cut else "data that is no picture"
    return "data that is no picture" if b"\x00" in data else "text, no picture"


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
