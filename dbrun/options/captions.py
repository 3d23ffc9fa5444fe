"""Caption sources: where a picture's own prompt comes from, and how templates and tag shuffling vary it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.config_types import FilledText, Float, Int, OrNone, Part, PromptText, subclasses
from dbrun.seeds import derive_seed

if TYPE_CHECKING:
    from dbrun.images.captions import FolderCaptions

CAPTION, TRIGGER = "caption", "trigger"


def _check_template(value: str) -> str:
    try:
        fields = template_fields(value)
    except ValueError:
        # a lone brace; the error below says what is allowed
        fields = set()
    if CAPTION not in fields or not fields <= {CAPTION, TRIGGER}:
        raise PydanticCustomError("wants_template", "expected text with {caption} in it, and optionally {trigger}")
    return value


def template_fields(template: str) -> set[str]:
    """Names in braces of a template, such as {"caption", "trigger"}. Raises ValueError for an unpaired brace."""
    fields: set[str] = set()
    for _, name, spec, conversion in Formatter().parse(template):
        if name is not None:
            # "{caption!r}" or "{caption:>9}" become unknown names, since a format has no meaning here
            fields.add(name + (spec or "") + (conversion or ""))
    return fields


Template = Annotated[PromptText, AfterValidator(_check_template)]


class Shuffle(Part):
    """Tags of a caption in a different order from draw to draw, so that no tag is tied to its position."""

    variants: Annotated[Int, Field(ge=2, le=64)] = 8
    """Number of tag orders per caption, the written order included; each is encoded once."""
    keep: Annotated[Int, Field(ge=0, le=1000)] = 1
    """Number of leading tags that keep their position."""
    separator: Annotated[PromptText, Field(min_length=1)] = ","
    """Text between tags."""

    def shuffled_captions(self, caption: str, seed: int) -> tuple[str, ...]:
        """The caption and other orders of its tags, all different, at most `variants`; fewer for a few tags."""
        parts = [part.strip() for part in caption.split(self.separator)]
        tags = [part for part in parts if part]
        first, rest = tags[:self.keep], tags[self.keep:]
        orders = [tuple(tags)]
        # three tags have only six orders, so a bounded number of attempts, not a loop until there are enough
        for attempt in range(4 * self.variants):
            # sorting by a hash is a shuffle that depends on no library's generator
            ranks = [derive_seed(seed, "tags", caption, attempt, i) for i in range(len(rest))]
            positions = sorted(range(len(rest)), key=ranks.__getitem__)
            order = (*first, *(rest[i] for i in positions))
            if order not in orders and len(orders) < self.variants:
                orders.append(order)
        joint = self.separator
        if not joint.isspace():
            joint += " "
        return tuple(joint.join(order) for order in orders)


class CaptionSource(Part):
    """A source of captions for single pictures; a picture without a caption has the instance prompt."""

    NAME: ClassVar[str]
    READS_SIDECARS: ClassVar[bool] = False
    """Whether it reads text files beside the pictures."""
    PER_PICTURE: ClassVar[bool] = True
    """Whether pictures may have captions of their own."""
    missing_reason: ClassVar[str] = ""
    """Why a picture has no caption, for a warning; `{name}` stands for the picture's name without its ending."""

    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of draws in which a picture has the empty prompt instead; classifier-free guidance relies on that prompt.
    """

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """Captions of the pictures in a folder. Raises RecipeError where they cannot be read.

        pictures: file names of the pictures; names: all file names in the folder.
        """
        raise NotImplementedError

    @property
    def needs_trigger(self) -> bool:
        """Whether the prompts contain the subject's trigger word."""
        return False

    @property
    def shuffles_tags(self) -> bool:
        """Whether the order of tags varies from draw to draw."""
        return False

    def prompts(self, captions: Sequence[str], trigger: str | None, seed: int) -> tuple[str, ...]:
        """All prompts of a picture with these captions."""
        return tuple(captions)


class TemplatedCaptions(CaptionSource):
    """A caption source with an optional template around each caption, and optional tag shuffling."""

    template: Annotated[Template | None, OrNone] = None
    """Text around each caption, such as `a photo of {trigger}, {caption}`; `{trigger}` is `subject.trigger`."""
    shuffle: Annotated[Shuffle | None, OrNone] = None
    """Vary the order of tags from draw to draw; left out, the order stays as written."""

    @property
    def needs_trigger(self) -> bool:
        """Whether the template names the trigger."""
        return self.template is not None and TRIGGER in template_fields(self.template)

    @property
    def shuffles_tags(self) -> bool:
        """Whether `shuffle` is set."""
        return self.shuffle is not None

    def prompts(self, captions: Sequence[str], trigger: str | None, seed: int) -> tuple[str, ...]:
        """Each caption in each of its tag orders, inside the template; no duplicates."""
        template = self.template or f"{{{CAPTION}}}"
        found: list[str] = []
        for caption in captions:
            orders: Sequence[str] = (caption,)
            if self.shuffle:
                orders = self.shuffle.shuffled_captions(caption, seed)
            found += [template.format(**{CAPTION: order, TRIGGER: trigger}) for order in orders]
        # a dict, not a set: the order of the prompts decides which one a draw gets
        return tuple(dict.fromkeys(found))


class Sidecar(TemplatedCaptions):
    """A text file beside each picture: dog1.txt for dog1.jpg."""

    NAME: ClassVar[str] = "sidecar"
    READS_SIDECARS: ClassVar[bool] = True
    missing_reason: ClassVar[str] = "there is no {name}.txt beside it"
    type: Literal["sidecar"] = "sidecar"
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """Contents of the text files."""
        from dbrun.images.captions import read_sidecars

        return read_sidecars(folder, pictures, names)


class Metadata(TemplatedCaptions):
    """A table beside the pictures, metadata.jsonl or metadata.csv, in the format of the Hub's imagefolder."""

    NAME: ClassVar[str] = "metadata"
    missing_reason: ClassVar[str] = "no row of the metadata names it"
    type: Literal["metadata"]
    """Where captions come from."""
    column: Annotated[FilledText | None, OrNone] = None
    """Name of the column with the captions; left out, `text`, `caption` or `prompt`."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """Captions in the rows of the table; rows may name pictures in subfolders."""
        from dbrun.images.metadata import read_metadata

        return read_metadata(folder, names, self.column)


class Filename(TemplatedCaptions):
    """File names as captions: a_dog_in_the_snow_02.jpg becomes "a dog in the snow"."""

    NAME: ClassVar[str] = "filename"
    missing_reason: ClassVar[str] = "its name is only a number"
    type: Literal["filename"]
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """File names turned into words."""
        from dbrun.images.captions import captions_from_names

        return captions_from_names(folder, pictures)


class PromptOnly(CaptionSource):
    """The instance prompt for every picture; text files beside the pictures are ignored."""

    NAME: ClassVar[str] = "prompt"
    PER_PICTURE: ClassVar[bool] = False
    type: Literal["prompt"]
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """No captions: every picture has the instance prompt."""
        from dbrun.images.captions import FolderCaptions

        return FolderCaptions({})


SIDECAR = Sidecar.from_defaults()


def caption_sources() -> tuple[type[CaptionSource], ...]:
    """Every caption source class of this package."""
    return subclasses("dbrun.options", CaptionSource)
