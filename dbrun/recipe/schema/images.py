"""The recipe section `images`: resolution, buckets, crops, flips and masks; and the rules between these keys."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Bool, Int, OrNone, Part, Text
from dbrun.errors import KeyProblem

COLOUR_PATTERN = r"^#[0-9a-fA-F]{6}$"
DEFAULT_CROPS = 8
"""Random crops per picture where `images.crops` is left out."""
Side = Annotated[Int | None, Field(ge=8, le=32_768), OrNone]
Masks = Literal["none", "files", "alpha"]


class Buckets(Part):
    """Shapes of at most `resolution`² pixels; each picture is cropped to the shape nearest to its own.

    Each width is paired with the largest height that keeps the area within `resolution`², as in NovelAI and
    kohya-ss/sd-scripts.
    """

    min_side: Side = None
    """Shortest side of a bucket, in pixels; left out, half of `resolution`."""
    max_side: Side = None
    """Longest side of a bucket, in pixels; left out, twice `resolution`."""
    step: Annotated[Int | None, Field(ge=1, le=4096), OrNone] = None
    """Sides are multiples of this number of pixels; left out, the smallest step that the base accepts (64 for Stable
    Diffusion as published)."""


class Images(Part):
    """How pictures are prepared."""

    # results from before these options keep their cache keys
    NEUTRAL: ClassVar[dict[str, object]] = {"buckets": None, "crop": "center", "crops": None, "flip": False,
                                            "masks": "none"}

    resolution: Annotated[Int, Field(ge=8, le=8192)] = 512
    """Side of the square pictures, in pixels. With `buckets`, the side of the square bucket; the others have about as
    many pixels."""
    background: Annotated[Text, Field(pattern=COLOUR_PATTERN, examples=["#ffffff"])] = "#ffffff"
    """Colour behind transparent pictures."""
    buckets: Annotated[Buckets | None, OrNone] = None
    """Aspect-ratio buckets, so that little is cut off pictures that are not square; `{}` for the default buckets; left
    out, every picture is cropped to a square. With buckets, a micro-batch holds pictures of one shape, so the last one
    of a shape in an epoch may be smaller. Class images that the base generates stay square; where class and instance
    images have different shapes, they go through the denoiser separately."""
    crop: Literal["center", "random"] = "center"
    """Which part of a picture is kept where its shape does not fit: the centre, or a random part."""
    crops: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """With `crop: random`, the number of random crops per picture that are encoded; each draw uses one of them. Left
    out, 8."""
    flip: Bool = False
    """Mirror instance images left to right in about half of the draws; not for subjects whose left and right differ."""
    masks: Masks = "none"
    """Which area of an instance image is learned. `none`: all of it. `files`: the white area of a mask beside it,
    `NAME.mask.png` or `NAME-masklabel.png`. `alpha`: what is not transparent. `objective.unmasked_weight` sets how much
    the rest counts."""

    @property
    def needs_picture_size(self) -> bool:
        """Whether a picture's crops depend on its own size, not only on `resolution`."""
        return self.buckets is not None or self.crop == "random" or self.flip

    @property
    def random_crops(self) -> int:
        """Number of random crops per picture; 0 with `crop: center`."""
        if self.crop != "random":
            return 0
        return self.crops or DEFAULT_CROPS


def check_images(images: Images) -> Iterator[KeyProblem]:
    """Problems between the keys of `images`."""
    if images.crops is not None and images.crop == "center":
        yield KeyProblem("images.crops",
                         f"found {images.crops}, but `crop: center` makes only one crop, the centre",
                         "write `crop: random`, or remove `crops`")
    buckets, side = images.buckets, images.resolution
    if buckets is None:
        return
    if buckets.step is not None and side % buckets.step:
        yield KeyProblem("images.buckets.step",
                         f"found {buckets.step}, but `images.resolution: {side}` is not a multiple of it",
                         "write a step that divides the resolution, or remove it")
    if buckets.min_side is not None and buckets.min_side > side:
        yield KeyProblem("images.buckets.min_side", f"found {buckets.min_side}, more than `images.resolution: {side}`",
                         f"write {side} or less")
    if buckets.max_side is not None and buckets.max_side < side:
        yield KeyProblem("images.buckets.max_side", f"found {buckets.max_side}, less than `images.resolution: {side}`",
                         f"write {side} or more")
