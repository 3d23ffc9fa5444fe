"""Which shape does a picture get, and which part of it is shown? All sizes are (width, height) in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dbrun.seeds import derive_seed

Size = tuple[int, int]


@dataclass(frozen=True)
class CropBox:
    """How a picture is cut: resized to `resized_size`, of which `size` is shown from (left, top) on;
    mirrored at last."""

    resized_size: Size
    left: int
    top: int
    size: Size
    mirrored: bool = False

    def source_box(self, whole: Size) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what is shown, in the pixels of the picture as it was: of size `whole`."""
        across, down = whole[0] / self.resized_size[0], whole[1] / self.resized_size[1]
        right, bottom = self.left + self.size[0], self.top + self.size[1]
        return self.left * across, self.top * down, right * across, bottom * down

    @property
    def cropped_share(self) -> float:
        """The share of the picture that is cut off, 0 to 1."""
        return 1.0 - math.prod(self.size) / math.prod(self.resized_size)

    def upscale_factor(self, whole: Size) -> float:
        """How many times wider a picture of this size becomes."""
        return self.resized_size[0] / whole[0]


@dataclass(frozen=True)
class CropSettings:
    """How pictures are cut. shapes: those they may have; crops: how many by chance, 0 for the middle alone.

    seed: where the chance comes from; flip: whether each is shown mirrored, too.
    """

    shapes: tuple[Size, ...]
    crops: int = 0
    flip: bool = False
    seed: int = 0

    def crop_boxes(self, digest: str, size: Size) -> tuple[CropBox, ...]:
        """The different ways in which the picture of this content and size is shown; all of one shape."""
        middle = center_crop(size, nearest_shape(size, self.shapes))
        chosen = [_random_crop(middle, derive_seed(self.seed, "crop", digest, number)) for number in range(self.crops)]
        cut = list(dict.fromkeys(chosen or [middle]))
        return tuple(cut + [replace(frame, mirrored=True) for frame in cut] if self.flip else cut)


def square_shape(side: int) -> tuple[Size, ...]:
    """The one shape where there are no buckets."""
    return ((side, side),)


def bucket_shapes(side: int, step: int, shortest: int, longest: int) -> tuple[Size, ...]:
    """The shapes of at most side² pixels whose sides are multiples of step, from shortest to longest.

    The square is one of them. As kohya-ss/sd-scripts (`make_bucket_resolutions`) makes them.
    """
    found = {(side, side)}
    for one in range(-(-shortest // step) * step, longest + 1, step):
        other = min(longest, side * side // one) // step * step
        if other >= shortest:
            found |= {(one, other), (other, one)}
    return tuple(sorted(found))


def nearest_shape(size: Size, shapes: Sequence[Size]) -> Size:
    """The shape whose sides' ratio is nearest to that of size; of two equally near, the larger."""
    def distance(shape: Size) -> tuple[float, int]:
        return round(abs(math.log(size[0] * shape[1] / (size[1] * shape[0]))), 9), -math.prod(shape)
    return min(shapes, key=distance)


def center_crop(size: Size, shape: Size) -> CropBox:
    """The largest part of that shape from the middle of a picture of this size."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    scaled = max(shape[0], round(size[0] * scale)), max(shape[1], round(size[1] * scale))
    return CropBox(scaled, (scaled[0] - shape[0]) // 2, (scaled[1] - shape[1]) // 2, shape)


def batches_per_epoch(shown: Iterable[int], batch_size: int) -> int:
    """Micro-batches of an epoch that shows this many pictures of each of several shapes."""
    return sum(-(-count // batch_size) for count in shown)


def _random_crop(frame: CropBox, chance: int) -> CropBox:
    """The frame somewhere else on the picture. chance: 63 random bits."""
    across, down = (whole - part + 1 for whole, part in zip(frame.resized_size, frame.size, strict=True))
    return replace(frame, left=chance % across, top=chance // across % down)
