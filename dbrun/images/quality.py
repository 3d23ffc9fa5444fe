"""What does a picture look like, at a glance: blurred, black, or nearly the same as another one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.images.blank import DARK, FLAT
from dbrun.images.decoders import HEAD, make_ready

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from PIL.Image import Image

SIDE = 512
"""Pixels of the longer side at which pictures are looked at; smaller ones as they are."""
GRID = 16
"""Rows and columns of a fingerprint: 256 bits."""
NEAR = 36
"""Bits of 256 that two pictures of one thing differ by at most; of two photos about half of all bits differ."""
BLURRED = 0.55
"""From this blur on a picture is called blurred; 0 is sharp, 1 is without any edge."""
BLOCK = 128


@dataclass(frozen=True)
class Look:
    """What was seen of a picture. width, height: pixels once upright; shows: "", "black" or "of one colour".

    blur: 0 to 1; fingerprint, mirrored: 256 bits in hex, of the picture and of its mirror image.
    """

    width: int
    height: int
    blur: float
    shows: str
    fingerprint: str
    mirrored: str

    def as_data(self) -> dict[str, Any]:
        """The same as JSON data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Look:
        """What `as_data` made."""
        return cls(**data)


def look(path: Path) -> Look:
    """Look at a picture. Raises RecipeError or OSError where it cannot be read."""
    import numpy as np
    from PIL import Image

    picture, (width, height) = _small(path)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    low, high = np.percentile(grey, [1, 99])
    shows = "black" if high < DARK else "of one colour" if high - low < FLAT else ""
    return Look(width, height, round(blur(grey), 3), shows, fingerprint(picture),
                fingerprint(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def blur(grey: NDArray[float32]) -> float:
    """How little of a picture's contrast between neighbours another blur would take away, 0 to 1.

    Crété-Roffet et al. 2007, "The blur effect: perception and estimation with a new no-reference perceptual blur
    metric": the larger of both directions, with a mean of nine pixels. grey: [H, W] in any unit.
    """
    return max(_blur_down(grey), _blur_down(grey.T))


def fingerprint(picture: Image) -> str:
    """Which of two neighbours is brighter, on a grid of 16 x 17 cells: a difference hash, which scale, quality and
    brightness hardly change."""
    import numpy as np
    from PIL import Image

    cells = np.asarray(picture.convert("L").resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def alike(looks: Sequence[Look]) -> Mapping[int, tuple[int, bool]]:
    """Of each picture that looks nearly like an earlier one: the first such one, and whether it is its mirror image."""
    import numpy as np

    plain, mirrored = (np.frombuffer(bytes.fromhex("".join(one)), np.uint64).reshape(-1, GRID * GRID // 64)
                       for one in ([seen.fingerprint for seen in looks], [seen.mirrored for seen in looks]))
    found: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(plain), BLOCK):
        for flipped, rows in ((True, mirrored[start:start + BLOCK]), (False, plain[start:start + BLOCK])):
            apart = np.bitwise_count(rows[:, None] ^ plain[None, :start + len(rows)]).sum(2, dtype=np.uint16)
            # only earlier ones count
            apart[np.arange(apart.shape[1])[None] >= (start + np.arange(len(rows)))[:, None]] = GRID * GRID
            for row in np.flatnonzero((apart <= NEAR).any(1)):
                found[start + int(row)] = int(np.argmax(apart[row] <= NEAR)), flipped
    return dict(sorted(found.items()))


def _blur_down(grey: NDArray[float32]) -> float:
    import numpy as np

    if len(grey) < 2:
        return 1.0
    padded = np.pad(grey, ((5, 4), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
    blurred = (padded[9:] - padded[:-9]) / 9
    own, other = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(blurred, axis=0))
    total = float(own.sum())
    return 1.0 if total == 0 else 1.0 - float(np.maximum(0.0, own - other).sum()) / total


def _small(path: Path) -> tuple[Image, tuple[int, int]]:
    """The picture upright, as RGB on white, made small; and how large it is."""
    from PIL import Image, ImageOps

    from dbrun.images.pixels import over, upright

    with path.open("rb") as file:
        make_ready(file.read(HEAD), str(path))
    with Image.open(path) as opened:
        whole = opened.size
        if opened.format in ("JPEG", "MPO"):
            # the decoder leaves out what would be thrown away
            opened.draft("RGB", (SIDE, SIDE))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            size = whole if (picture.width >= picture.height) == (opened.width >= opened.height) else whole[::-1]
        else:
            picture = over(upright(path.read_bytes(), str(path)), "#ffffff")
            size = picture.size
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return picture, size
