"""What a recipe may say of how pictures are prepared, and what of it must agree."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dbrun.config_types import Bool, Int, OrNone, Part, Text
from dbrun.errors import KeyProblem

COLOUR_PATTERN = r"^#[0-9a-fA-F]{6}$"
DEFAULT_CROPS = 8
"""Random crops of a picture that are encoded where `images.crops` is left out."""
Side = Annotated[Int | None, Field(ge=8, le=32_768), OrNone]
Masks = Literal["none", "files", "alpha"]


class Buckets(Part):
    """Shapes of about `resolution`² pixels; a picture gets the one that is nearest to its own.

    Each width goes with the largest height that leaves `resolution`² pixels, as NovelAI and kohya-ss/sd-scripts do it.
    """

    min_side: Side = None
    """The shortest side of a bucket, in pixels; left out, half of `resolution`."""
    max_side: Side = None
    """The longest side of a bucket, in pixels; left out, twice `resolution`."""
    step: Annotated[Int | None, Field(ge=1, le=4096), OrNone] = None
    """Sides are multiples of it; left out, the least that the base takes (64 for Stable Diffusion as published)."""


class Images(Part):
    """How pictures are prepared."""

    NEUTRAL: ClassVar[dict[str, object]] = {"buckets": None, "crop": "center", "crops": None, "flip": False,
                                            "masks": "none"}

    resolution: Annotated[Int, Field(ge=8, le=8192)] = 512
    """Side of the square, in pixels; of buckets the side of the square one, as large as the others."""
    background: Annotated[Text, Field(pattern=COLOUR_PATTERN, examples=["#ffffff"])] = "#ffffff"
    """The colour put behind transparent pictures."""
    buckets: Annotated[Buckets | None, OrNone] = None
    """Aspect-ratio buckets, so that little is cut from pictures that are no squares; `{}` for the usual ones; left out,
    every picture becomes a square. A micro-batch then holds pictures of one shape, so that an epoch's last of a shape
    may hold fewer. Class images that the base makes stay squares; a class half of another shape than the instance half
    goes through the denoiser by itself."""
    crop: Literal["center", "random"] = "center"
    """What is cut from a picture that does not fit its shape: the same on both sides, or by chance."""
    crops: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """With `crop: random`, how many crops of each picture are encoded, of which each draw takes one; left out, 8."""
    flip: Bool = False
    """Show each of your pictures mirrored, too, in about half of the draws; not for what has a left and a right."""
    masks: Masks = "none"
    """What of an instance image is to be learnt: all; what its mask shows, `NAME.mask.png` or `NAME-masklabel.png`
    beside it, white on black; or what is not transparent. `objective.unmasked_weight` says how the rest counts."""

    @property
    def needs_picture_size(self) -> bool:
        """Whether what is cut from a picture depends on more than the square's side."""
        return self.buckets is not None or self.crop == "random" or self.flip

    @property
    def random_crops(self) -> int:
        """How many random crops a picture has; 0 where the middle is taken."""
        return (self.crops or DEFAULT_CROPS) if self.crop == "random" else 0


def check_images(images: Images) -> Iterator[KeyProblem]:
    """(dotted key, message, fix) of all that does not fit together."""
    if images.crops is not None and images.crop == "center":
        yield KeyProblem("images.crops",
                         f"found {images.crops}, but `crop: center` takes the middle, of which there is one",
                         "write `crop: random`, or take `crops` away")
    buckets, side = images.buckets, images.resolution
    if buckets is None:
        return
    if buckets.step is not None and side % buckets.step:
        yield KeyProblem("images.buckets.step",
                         f"found {buckets.step}, of which `images.resolution: {side}` is no multiple",
                         "write a step that divides the resolution, or take it away")
    if buckets.min_side is not None and buckets.min_side > side:
        yield KeyProblem("images.buckets.min_side", f"found {buckets.min_side}, more than `images.resolution: {side}`",
                         f"write {side} or less")
    if buckets.max_side is not None and buckets.max_side < side:
        yield KeyProblem("images.buckets.max_side", f"found {buckets.max_side}, less than `images.resolution: {side}`",
                         f"write {side} or more")
