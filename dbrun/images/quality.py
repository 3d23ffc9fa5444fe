"""What does a picture look like, at a glance: blurred, black, or nearly the same as another one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.images.blank import MIN_BRIGHTNESS, MIN_CONTRAST
from dbrun.images.decoders import HEADER_BYTES, register_decoder

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray
    from PIL.Image import Image

ANALYSIS_SIDE = 512
"""Pixels of the longer side at which pictures are looked at; smaller ones as they are."""
HASH_SIDE = 16
"""Rows and columns of a fingerprint: 256 bits."""
MAX_HASH_DISTANCE = 36
"""Bits of 256 that two pictures of one thing differ by at most; of two photos about half of all bits differ."""
BLUR_THRESHOLD = 0.55
"""From this blur on a picture is called blurred; 0 is sharp, 1 is without any edge."""
BLOCK_ROWS = 128


@dataclass(frozen=True)
class PictureQuality:
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
    def from_data(cls, data: Mapping[str, Any]) -> PictureQuality:
        """What `as_data` made."""
        return cls(**data)


def measure_quality(path: Path) -> PictureQuality:
    """Look at a picture. Raises RecipeError or OSError where it cannot be read."""
    import numpy as np
    from PIL import Image

    picture, (width, height) = _load_thumbnail(path)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    low, high = np.percentile(grey, [1, 99])
    shows = "black" if high < MIN_BRIGHTNESS else "of one colour" if high - low < MIN_CONTRAST else ""
    return PictureQuality(width, height, round(blur(grey), 3), shows, difference_hash(picture),
                          difference_hash(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def blur(grey: NDArray[float32]) -> float:
    """How little of a picture's contrast between neighbours another blur would take away, 0 to 1.

    Crété-Roffet et al. 2007, "The blur effect: perception and estimation with a new no-reference perceptual blur
    metric": the larger of both directions, with a mean of nine pixels. grey: [H, W] in any unit.
    """
    return max(_vertical_blur(grey), _vertical_blur(grey.T))


def difference_hash(picture: Image) -> str:
    """Which of two neighbours is brighter, on a grid of 16 x 17 cells: a difference hash, which scale, quality and
    brightness hardly change."""
    import numpy as np
    from PIL import Image

    cells = np.asarray(picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def find_near_duplicates(looks: Sequence[PictureQuality]) -> Mapping[int, tuple[int, bool]]:
    """Of each picture that looks nearly like an earlier one: the first such one, and whether it is its mirror image."""
    import numpy as np

    plain, mirrored = (np.frombuffer(bytes.fromhex("".join(one)), np.uint64).reshape(-1, HASH_SIDE * HASH_SIDE // 64)
                       for one in ([seen.fingerprint for seen in looks], [seen.mirrored for seen in looks]))
    found: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(plain), BLOCK_ROWS):
        for flipped, rows in ((True, mirrored[start:start + BLOCK_ROWS]), (False, plain[start:start + BLOCK_ROWS])):
            apart = np.bitwise_count(rows[:, None] ^ plain[None, :start + len(rows)]).sum(2, dtype=np.uint16)
            # only earlier ones count
            apart[np.arange(apart.shape[1])[None] >= (start + np.arange(len(rows)))[:, None]] = HASH_SIDE * HASH_SIDE
            for row in np.flatnonzero((apart <= MAX_HASH_DISTANCE).any(1)):
                found[start + int(row)] = int(np.argmax(apart[row] <= MAX_HASH_DISTANCE)), flipped
    return dict(sorted(found.items()))


def _vertical_blur(grey: NDArray[float32]) -> float:
    import numpy as np

    if len(grey) < 2:
        return 1.0
    padded = np.pad(grey, ((5, 4), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
    blurred = (padded[9:] - padded[:-9]) / 9
    own, other = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(blurred, axis=0))
    total = float(own.sum())
    return 1.0 if total == 0 else 1.0 - float(np.maximum(0.0, own - other).sum()) / total


def _load_thumbnail(path: Path) -> tuple[Image, tuple[int, int]]:
    """The picture upright, as RGB on white, made small; and how large it is."""
    from PIL import Image, ImageOps

    from dbrun.images.pixels import composite_over, read_upright

    with path.open("rb") as file:
        register_decoder(file.read(HEADER_BYTES), str(path))
    with Image.open(path) as opened:
        whole = opened.size
        if opened.format in ("JPEG", "MPO"):
            # the decoder leaves out what would be thrown away
            opened.draft("RGB", (ANALYSIS_SIDE, ANALYSIS_SIDE))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            size = whole if (picture.width >= picture.height) == (opened.width >= opened.height) else whole[::-1]
        else:
            picture = composite_over(read_upright(path.read_bytes(), str(path)), "#ffffff")
            size = picture.size
    picture.thumbnail((ANALYSIS_SIDE, ANALYSIS_SIDE), Image.Resampling.BOX)
    return picture, size
