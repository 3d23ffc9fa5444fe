"""Shapes of training pictures (aspect-ratio buckets) and the crops in them; all sizes are (width, height) in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dbrun.seeds import derive_seed

Size = tuple[int, int]


@dataclass(frozen=True)
class CropBox:
    """Crop of a picture: resize to `resized_size`, cut `size` from (left, top) on, then mirror it if `mirrored`."""

    resized_size: Size
    left: int
    top: int
    size: Size
    mirrored: bool = False

    def source_box(self, whole: Size) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the crop in pixels of the original picture, which has the size `whole`."""
        x_scale, y_scale = whole[0] / self.resized_size[0], whole[1] / self.resized_size[1]
        right, bottom = self.left + self.size[0], self.top + self.size[1]
        return self.left * x_scale, self.top * y_scale, right * x_scale, bottom * y_scale

    @property
    def cropped_share(self) -> float:
        """Share of the picture's area that is cut off, 0 to 1."""
        return 1.0 - math.prod(self.size) / math.prod(self.resized_size)

    def upscale_factor(self, whole: Size) -> float:
        """Factor by which a picture of size `whole` is resized, above 1 where it is enlarged."""
        return self.resized_size[0] / whole[0]


@dataclass(frozen=True)
class CropSettings:
    """Settings of the crops. shapes: the allowed sizes; crops: number of random crops, 0 for the centre crop alone.

    seed: seed of the random crops; flip: whether each crop is used mirrored, too.
    """

    shapes: tuple[Size, ...]
    crops: int = 0
    flip: bool = False
    seed: int = 0

    def crop_boxes(self, digest: str, size: Size) -> tuple[CropBox, ...]:
        """Crops of a picture of this size, all of one shape and none twice. digest: of its content."""
        centre = center_crop(size, nearest_shape(size, self.shapes))
        # seeded by content and number: another picture in the folder, or one more crop, moves no existing crop
        seeds = [derive_seed(self.seed, "crop", digest, number) for number in range(self.crops)]
        drawn = [_random_crop(centre, seed) for seed in seeds]
        boxes = list(dict.fromkeys(drawn or [centre]))
        if self.flip:
            boxes += [replace(box, mirrored=True) for box in boxes]
        return tuple(boxes)


def square_shape(side: int) -> tuple[Size, ...]:
    """The only shape where bucketing is off: a square."""
    return ((side, side),)


def bucket_shapes(side: int, step: int, shortest: int, longest: int) -> tuple[Size, ...]:
    """Shapes of at most side² pixels, with sides from shortest to longest that are multiples of step; sorted.

    The square is always one of them. The same shapes as kohya-ss/sd-scripts' `make_bucket_resolutions`.
    """
    shapes = {(side, side)}
    first = -(-shortest // step) * step
    for width in range(first, longest + 1, step):
        height = min(longest, side * side // width) // step * step
        if height >= shortest:
            shapes |= {(width, height), (height, width)}
    return tuple(sorted(shapes))


def nearest_shape(size: Size, shapes: Sequence[Size]) -> Size:
    """Shape whose aspect ratio is nearest to that of size; of two equally near ones, the larger."""
    def distance(shape: Size) -> tuple[float, int]:
        # logarithms, so that twice as wide is as far off as twice as high; rounded, so that equal ratios compare equal
        log_ratio = abs(math.log(size[0] * shape[1] / (size[1] * shape[0])))
        return round(log_ratio, 9), -math.prod(shape)
    return min(shapes, key=distance)


def center_crop(size: Size, shape: Size) -> CropBox:
    """Largest crop of that shape from the middle of a picture of this size."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    # rounding must not make a side shorter than the shape's
    width, height = max(shape[0], round(size[0] * scale)), max(shape[1], round(size[1] * scale))
    return CropBox((width, height), (width - shape[0]) // 2, (height - shape[1]) // 2, shape)


def batches_per_epoch(shown: Iterable[int], batch_size: int) -> int:
    """Micro-batches of an epoch. shown: for each shape the number of pictures, repeats included."""
    # a batch holds pictures of one shape, so every shape may end with a batch that is not full
    return sum(-(-count // batch_size) for count in shown)


def _random_crop(frame: CropBox, chance: int) -> CropBox:
    """Crop of the same size at a random position. chance: 63 random bits, so the bias of the modulo is negligible."""
    lefts = frame.resized_size[0] - frame.size[0] + 1
    tops = frame.resized_size[1] - frame.size[1] + 1
    return replace(frame, left=chance % lefts, top=chance // lefts % tops)
