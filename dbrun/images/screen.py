"""Whether a picture can be trained on: every pixel read once, before anything expensive starts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError
from dbrun.images.readers import make_ready
from dbrun.values import dataclass

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 16
LARGEST = 80_000_000
HEAD = 512
ORIENTATION = 0x0112
AWAY = "take it out of the folder"
TRANSPARENT = "transparent parts get the background colour"


@dataclass(frozen=True)
class Screened:
    """A picture that can be used. width, height: pixels once upright; notes: what will be done to it.

    kind: Pillow's word for the kind of file.
    """

    width: int
    height: int
    notes: tuple[str, ...] = ()
    kind: str = ""

    def as_data(self) -> dict[str, Any]:
        """The same as JSON data."""
        return {"width": self.width, "height": self.height, "notes": list(self.notes), "kind": self.kind}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Screened:
        """What `as_data` made."""
        return cls(int(data["width"]), int(data["height"]), tuple(data["notes"]), str(data["kind"]))


def screen(path: Path) -> Screened:
    """Read a picture to its last pixel; raises RecipeError that says why it cannot be used."""
    from PIL import Image, UnidentifiedImageError

    try:
        with path.open("rb") as file:
            make_ready(file.read(HEAD), str(path))
            file.seek(0)
            with Image.open(file) as image:
                _check_size(path, image)
                notes, kind, whole = _notes(image), image.format or "", image.size
                # of a JPEG all bits are read, but only an eighth of the pixels is made from them
                shrunk = image.draft(None, (1, 1)) is not None
                image.load()
                _check_range(path, image)
                width, height = _upright(image, whole if shrunk else image.size)
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
    return Screened(width, height, notes, kind)


def screen_all(paths: Iterable[Path], known: Callable[[Path], Screened | None] = lambda path: None,
               learnt: Callable[[Path, Screened], None] = lambda path, seen: None,
               also: Callable[[Path], None] = lambda path: None) -> dict[Path, Screened]:
    """Screen pictures; raises one RecipeError that names all that cannot be used.

    known: what an earlier screening of the same content found; learnt: told of every picture new and good; also:
    another check, which raises RecipeError.
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
                good[path] = screen(path)
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


def _orientation(image: Image) -> int:
    return int(image.getexif().get(ORIENTATION, 1))


def _upright(image: Image, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height as the EXIF orientation says."""
    width, height = size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _notes(image: Image) -> tuple[str, ...]:
    """What the conversion to upright RGB will do to a picture."""
    turned = _orientation(image)
    told = [
        (image.mode == "CMYK", "CMYK is converted to RGB"),
        (image.mode.startswith("I") or image.mode == "F", "16-bit grey is scaled to 8 bits"),
        (image.mode in ("1", "L", "LA"), "grey becomes RGB"),
        (image.mode in ("P", "PA"), "the palette becomes RGB"),
        (_transparent(image), TRANSPARENT),
        (turned in (5, 6, 7, 8), "turned upright as its EXIF data say"),
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
