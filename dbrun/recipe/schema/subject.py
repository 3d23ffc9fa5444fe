"""The recipe section `subject`: what is learned, with its pictures, its prompts and its class."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from dbrun.config_types import (
    FilledText,
    Int,
    OrNone,
    Part,
    PathText,
    PromptText,
    check_filled,
    tagged_union,
    unwrap_single,
)
from dbrun.options.captions import SIDECAR, CaptionSource, caption_sources

Prompt = Annotated[PromptText, AfterValidator(check_filled)]
Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1)]
AnyCaptions: Any = tagged_union(caption_sources())


def prompt_cycle(prompt: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Prompts that pictures take in turn, empty for None: picture i has prompt number i mod n."""
    if isinstance(prompt, str):
        return (prompt,)
    return prompt or ()


class Subject(Part):
    """What is learned."""

    images: PathText
    """A folder of pictures (relative to the recipe), `embedded:NAME`, or, with `revision`, a data set of picture files
    on the Hub such as `owner/name`. A .txt file beside a picture holds that picture's own prompt."""
    revision: Annotated[FilledText | None, OrNone] = None
    """For a data set of the Hub: its commit, tag or branch; only a 40-digit commit always gives the same pictures."""
    instance_prompt: Annotated[Prompt | None, OrNone] = None
    """The prompt of the instance images, with the trigger word in it; may be left out where `captions` gives every
    picture its own."""
    captions: Annotated[AnyCaptions | None, OrNone] = None
    """Where the prompts of single pictures come from, and how they vary; left out, a .txt file beside each picture."""
    trigger: Annotated[Prompt | None, OrNone] = None
    """The rare word, or words, that stand for the subject; `{trigger}` in `captions.template` is replaced by it.

    Left out, the token of `adapt.trigger`. Prompts of pictures that lack the trigger are reported."""
    class_prompt: Annotated[Prompt | Prompts | None, AfterValidator(unwrap_single), OrNone] = None
    """The prompt of the class that the subject belongs to, or a list of prompts that the class images take in turn.

    Use a list where the instance prompts name places: class prompts with the same places keep the model from linking a
    place to the subject alone.
    """
    class_images: Annotated[PathText | None, OrNone] = None
    """A folder of your own class images for this subject; with a single subject, `prior.images` does the same."""
    repeats: Annotated[Int, Field(ge=1, le=10_000)] = 1
    """How many times an epoch shows each picture; above 1 where another subject has more pictures."""

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """Prompts that the class images take in turn; empty without a class prompt."""
        return prompt_cycle(self.class_prompt)

    @property
    def caption_source(self) -> CaptionSource:
        """Source of the captions: `captions`, or text files beside the pictures."""
        source: CaptionSource = self.captions or SIDECAR
        return source
