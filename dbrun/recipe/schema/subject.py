"""What a recipe says of something to be learnt: its pictures, its prompts, and the class it is one of."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.config_types import Int, OrNone, Part, Text, tagged_union
from dbrun.options.captions import SIDECAR, CaptionSource, caption_sources


def _check_prompt(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("wants_prompt", "expected words, not only blanks")
    return value


def _unwrap_single(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """A list of one is that one, so that both ways to write it are the same recipe."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


Prompt = Annotated[Text, AfterValidator(_check_prompt)]
Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1)]
AnyCaptions: Any = tagged_union(caption_sources())


def prompt_cycle(prompt: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One prompt, several, or none, as those that pictures take in turn: picture i has the prompt i mod n."""
    return (prompt,) if isinstance(prompt, str) else prompt or ()


class Subject(Part):
    """What is to be learnt."""

    images: Text
    """A folder of pictures (relative to the recipe), `embedded:NAME`, or, with `revision`, a data set of the Hub such
    as `owner/name`, whose files are pictures; a .txt beside a picture is its own prompt."""
    revision: Annotated[Text | None, OrNone] = None
    """Of a data set of the Hub: the commit, tag or branch; a 40-digit commit gives the same pictures tomorrow."""
    instance_prompt: Annotated[Prompt | None, OrNone] = None
    """The prompt of the instance images, with the trigger word in it; left out where `captions` has one for each."""
    captions: Annotated[AnyCaptions | None, OrNone] = None
    """Where pictures have prompts of their own from, and how these vary; left out, from a .txt beside each picture."""
    trigger: Annotated[Prompt | None, OrNone] = None
    """The rare word, or words, that come to mean the subject: what `{trigger}` in `captions.template` stands for.

    Left out, the token of `adapt.trigger`. A picture's prompt that lacks it is named."""
    class_prompt: Annotated[Prompt | Prompts | None, AfterValidator(_unwrap_single), OrNone] = None
    """The prompt of the class that the subject belongs to, or a list that the class images take in turn.

    A list lets the class prompts name places as the instance prompts do: else a place belongs to the subject alone.
    """
    class_images: Annotated[Text | None, OrNone] = None
    """A folder of your own class images of this subject, as `prior.images` names one where there is one subject."""
    repeats: Annotated[Int, Field(ge=1, le=10_000)] = 1
    """How often an epoch shows each of its pictures: more than 1 where another subject has more pictures."""

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """Those that the class images take in turn; empty where there is none."""
        return prompt_cycle(self.class_prompt)

    @property
    def caption_source(self) -> CaptionSource:
        """Where its pictures have prompts of their own from."""
        found: CaptionSource = self.captions or SIDECAR
        return found
