"""Quality of training pictures: blur, blank pictures, and near duplicates among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.images.blank import MIN_BRIGHTNESS, MIN_CONTRAST
from dbrun.images.decoders import HEADER_BYTES, register_decoder

if TYPE_CHECKING:
    from numpy import float32, uint64
    from numpy.typing import NDArray
    from PIL.Image import Image

ANALYSIS_SIDE = 512
"""Longer side in pixels to which a picture is reduced before it is measured; smaller ones are not enlarged."""
HASH_SIDE = 16
"""Rows and columns of a difference hash, which has 256 bits."""
MAX_HASH_DISTANCE = 36
"""Most bits of 256 in which near duplicates differ; between unrelated photos about half of the bits differ."""
BLUR_THRESHOLD = 0.55
"""Blur from which a picture is reported as blurred; 0 is sharp, 1 is without any edge."""
BLOCK_ROWS = 128
"""Pictures that are compared with all earlier ones at once; it bounds the memory."""


@dataclass(frozen=True)
class PictureQuality:
    """Measurements of a picture. width, height: in pixels, upright; shows: "", "black" or "of one colour".

    blur: 0 (sharp) to 1; fingerprint, mirrored: difference hash in hex of the picture and of its mirror image.
    """

    width: int
    height: int
    blur: float
    shows: str
    fingerprint: str
    mirrored: str

    def as_data(self) -> dict[str, Any]:
        """Fields as JSON data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> PictureQuality:
        """Inverse of `as_data`."""
        return cls(**data)


def measure_quality(path: Path) -> PictureQuality:
    """Measure a picture file. Raises RecipeError or OSError where it cannot be read."""
    import numpy as np
    from PIL import Image

    picture, (width, height) = _load_thumbnail(path)
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    # percentiles: a few noisy pixels or a watermark do not make a picture good
    low, high = np.percentile(grey, [1, 99])
    shows = ""
    if high < MIN_BRIGHTNESS:
        shows = "black"
    elif high - low < MIN_CONTRAST:
        shows = "of one colour"
    mirror_image = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return PictureQuality(width, height, round(blur(grey), 3), shows, difference_hash(picture),
                          difference_hash(mirror_image))


def blur(grey: NDArray[float32]) -> float:
    """Blur of grey pixels [H, W] of any unit, 0 (sharp) to 1 (no edge).

    The contrast between neighbours that remains after one more blur, relative to the contrast before; the larger of
    both directions. Crété-Roffet et al. 2007, "The blur effect: perception and estimation with a new no-reference
    perceptual blur metric", with a mean of nine pixels.
    """
    return max(_vertical_blur(grey), _vertical_blur(grey.T))


def difference_hash(picture: Image) -> str:
    """Difference hash of a picture, 256 bits in hex: for each cell of a 16 × 16 grid, whether its right neighbour is
    brighter. Scale, compression and brightness hardly change it."""
    import numpy as np
    from PIL import Image

    small = picture.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    cells = np.asarray(small, dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).tobytes().hex()


def find_near_duplicates(pictures: Sequence[PictureQuality]) -> Mapping[int, tuple[int, bool]]:
    """Near duplicates among pictures: index → (index of the first similar earlier picture, whether it is mirrored)."""
    import numpy as np

    plain = _hash_matrix([picture.fingerprint for picture in pictures])
    mirrored = _hash_matrix([picture.mirrored for picture in pictures])
    duplicates: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(plain), BLOCK_ROWS):
        # mirror images first: where both match, the plain match overwrites it
        for flipped, hashes in ((True, mirrored), (False, plain)):
            rows = hashes[start:start + BLOCK_ROWS]
            differing_bits = rows[:, None] ^ plain[None, :start + len(rows)]
            distances = np.bitwise_count(differing_bits).sum(2, dtype=np.uint16)
            # only earlier pictures count: the maximum distance for the picture itself and all later ones
            columns = np.arange(distances.shape[1])[None]
            row_indices = (start + np.arange(len(rows)))[:, None]
            distances[columns >= row_indices] = HASH_SIDE * HASH_SIDE
            similar = distances <= MAX_HASH_DISTANCE
            for row in np.flatnonzero(similar.any(1)):
                # argmax of booleans is the first True
                duplicates[start + int(row)] = int(np.argmax(similar[row])), flipped
    return dict(sorted(duplicates.items()))


def _hash_matrix(fingerprints: Sequence[str]) -> NDArray[uint64]:
    """Hashes in hex as an array uint64 [N, 4]."""
    import numpy as np

    bits = bytes.fromhex("".join(fingerprints))
    return np.frombuffer(bits, np.uint64).reshape(-1, HASH_SIDE * HASH_SIDE // 64)


def _vertical_blur(grey: NDArray[float32]) -> float:
    """Blur of grey [H, W] along the columns, 0 to 1."""
    import numpy as np

    if len(grey) < 2:
        return 1.0
    # a running mean over nine rows by differences of the cumulative sum; float64, or the sums lose the low bits
    sums = np.pad(grey, ((5, 4), (0, 0)), mode="edge").cumsum(0, dtype=np.float64)
    blurred = (sums[9:] - sums[:-9]) / 9
    contrast = np.abs(np.diff(grey, axis=0))
    blurred_contrast = np.abs(np.diff(blurred, axis=0))
    total = float(contrast.sum())
    if total == 0:
        return 1.0
    lost = np.maximum(0.0, contrast - blurred_contrast)
    return 1.0 - float(lost.sum()) / total


def _load_thumbnail(path: Path) -> tuple[Image, tuple[int, int]]:
    """Picture upright, as RGB on white, with sides of at most ANALYSIS_SIDE; and its full size (width, height)."""
    from PIL import Image, ImageOps

    from dbrun.images.pixels import composite_over, read_upright

    with path.open("rb") as file:
        register_decoder(file.read(HEADER_BYTES), str(path))
    with Image.open(path) as opened:
        size = opened.size
        if opened.format in ("JPEG", "MPO"):
            # a draft decodes only the low frequencies that the small picture needs, several times faster
            opened.draft("RGB", (ANALYSIS_SIDE, ANALYSIS_SIDE))
            picture = ImageOps.exif_transpose(opened).convert("RGB")
            # the orientation swapped the sides where the longer one is now the other
            is_wide, was_wide = picture.width >= picture.height, opened.width >= opened.height
            if is_wide != was_wide:
                size = (size[1], size[0])
        else:
            picture = composite_over(read_upright(path.read_bytes(), str(path)), "#ffffff")
            size = picture.size
    picture.thumbnail((ANALYSIS_SIDE, ANALYSIS_SIDE), Image.Resampling.BOX)
    return picture, size
