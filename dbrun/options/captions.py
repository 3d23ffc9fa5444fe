"""Where does a picture's own prompt come from, and how is it varied while training draws it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.config_types import Float, Int, OrNone, Part, Text, subclasses
from dbrun.seeds import derive_seed

if TYPE_CHECKING:
    from dbrun.images.captions import FolderCaptions

CAPTION, TRIGGER = "caption", "trigger"


def _check_template(value: str) -> str:
    try:
        named = template_fields(value)
    except ValueError:
        named = {value}
    if CAPTION not in named or not named <= {CAPTION, TRIGGER}:
        raise PydanticCustomError("wants_template", "expected words around {caption}, and if you like {trigger}")
    return value


def template_fields(template: str) -> set[str]:
    """The names in braces. Raises ValueError where braces are not in pairs."""
    return {name + (spec or "") + (conversion or "")
            for _, name, spec, conversion in Formatter().parse(template) if name is not None}


Template = Annotated[Text, AfterValidator(_check_template)]


class Shuffle(Part):
    """Tags in another order at each draw, so that none of them is tied to its place."""

    variants: Annotated[Int, Field(ge=2, le=64)] = 8
    """How many orders of each caption are taught, the written one among them; each is encoded once."""
    keep: Annotated[Int, Field(ge=0, le=1000)] = 1
    """Tags that stay in front."""
    separator: Annotated[Text, Field(min_length=1)] = ","
    """What stands between tags."""

    def shuffled_captions(self, caption: str, seed: int) -> tuple[str, ...]:
        """The caption and further orders of its tags, no two alike; fewer where there are not so many."""
        tags = [tag for part in caption.split(self.separator) if (tag := part.strip())]
        first, rest = tags[:self.keep], tags[self.keep:]
        found = [tuple(tags)]
        for attempt in range(4 * self.variants):
            ranks = {place: derive_seed(seed, "tags", caption, attempt, place) for place in range(len(rest))}
            order = (*first, *(rest[place] for place in sorted(ranks, key=lambda place: ranks[place])))
            found += [order] if order not in found and len(found) < self.variants else []
        joint = f"{self.separator} " if not self.separator.isspace() else self.separator
        return tuple(joint.join(order) for order in found)


class CaptionSource(Part):
    """A source of prompts for single pictures; a picture without one has the instance prompt."""

    NAME: ClassVar[str]
    READS_SIDECARS: ClassVar[bool] = False
    """Whether it reads text files beside the pictures."""
    PER_PICTURE: ClassVar[bool] = True
    """Whether pictures may have prompts of their own."""
    missing_reason: ClassVar[str] = ""
    """What a picture lacks that has none."""

    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """The share of draws in which a picture has the empty prompt instead, as guidance needs it to be known."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """The captions in a folder of these pictures and, in all, these names. Raises RecipeError."""
        raise NotImplementedError

    @property
    def needs_trigger(self) -> bool:
        """Whether the prompts are made with the subject's trigger."""
        return False

    @property
    def shuffles_tags(self) -> bool:
        """Whether tags change places."""
        return False

    def prompts(self, captions: Sequence[str], trigger: str | None, seed: int) -> tuple[str, ...]:
        """All the prompts of a picture with these captions."""
        return tuple(captions)


class TemplatedCaptions(CaptionSource):
    """Captions that words may stand around, and whose tags may change places."""

    template: Annotated[Template | None, OrNone] = None
    """Words around each caption, such as `a photo of {trigger}, {caption}`; `{trigger}` is `subject.trigger`."""
    shuffle: Annotated[Shuffle | None, OrNone] = None
    """Tags change places from draw to draw; left out, they stay where they are."""

    @property
    def needs_trigger(self) -> bool:
        """Whether the template names it."""
        return self.template is not None and TRIGGER in template_fields(self.template)

    @property
    def shuffles_tags(self) -> bool:
        """Whether `shuffle` is there."""
        return self.shuffle is not None

    def prompts(self, captions: Sequence[str], trigger: str | None, seed: int) -> tuple[str, ...]:
        """Each caption in each of its orders, with the template's words around it; no two alike."""
        orders = [order for text in captions
                  for order in (self.shuffle.shuffled_captions(text, seed) if self.shuffle else (text,))]
        template = self.template or f"{{{CAPTION}}}"
        return tuple(dict.fromkeys(template.format(**{CAPTION: order, TRIGGER: trigger}) for order in orders))


class Sidecar(TemplatedCaptions):
    """A text file beside each picture: dog1.txt for dog1.jpg."""

    NAME: ClassVar[str] = "sidecar"
    READS_SIDECARS: ClassVar[bool] = True
    missing_reason: ClassVar[str] = "there is no {name}.txt beside it"
    type: Literal["sidecar"] = "sidecar"
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """The text files' contents."""
        from dbrun.images.captions import read_sidecars

        return read_sidecars(folder, pictures, names)


class Metadata(TemplatedCaptions):
    """A table beside the pictures, metadata.jsonl or metadata.csv, as the Hub's imagefolder has it."""

    NAME: ClassVar[str] = "metadata"
    missing_reason: ClassVar[str] = "no row of the metadata gives it one"
    type: Literal["metadata"]
    """Where captions come from."""
    column: Annotated[Text | None, OrNone] = None
    """The column with the captions, beside `file_name`; left out, `text`, `caption` or `prompt`."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """The table's rows; they may name pictures in folders below."""
        from dbrun.images.captions import read_metadata

        return read_metadata(folder, names, self.column)


class Filename(TemplatedCaptions):
    """The pictures' own names: a_dog_in_the_snow_02.jpg is "a dog in the snow"."""

    NAME: ClassVar[str] = "filename"
    missing_reason: ClassVar[str] = "its name is only a number"
    type: Literal["filename"]
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """The names in words."""
        from dbrun.images.captions import captions_from_names

        return captions_from_names(pictures)


class PromptOnly(CaptionSource):
    """One prompt for all: the instance prompt, whatever text files lie beside the pictures."""

    NAME: ClassVar[str] = "prompt"
    PER_PICTURE: ClassVar[bool] = False
    type: Literal["prompt"]
    """Where captions come from."""

    def read(self, folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
        """Nothing: no picture has a caption of its own."""
        from dbrun.images.captions import FolderCaptions

        return FolderCaptions({})


SIDECAR = Sidecar.from_defaults()


def caption_sources() -> tuple[type[CaptionSource], ...]:
    """Every source of captions."""
    return subclasses("dbrun.options", CaptionSource)
