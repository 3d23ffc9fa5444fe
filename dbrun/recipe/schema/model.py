"""What a recipe may say: every key, its type, its default and its one line of explanation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.adapters.embedding import TOKEN_PATTERN
from dbrun.config_types import Float, Int, OrNone, Part, Text
from dbrun.models import base as families
from dbrun.options.objective import Objective
from dbrun.options.trackers import Tracker
from dbrun.recipe.schema.adapt import Adapt
from dbrun.recipe.schema.export import Export, export_description
from dbrun.recipe.schema.images import COLOUR_PATTERN, Images
from dbrun.recipe.schema.launch import Launch
from dbrun.recipe.schema.subject import Prompt, Subject, prompt_cycle
from dbrun.recipe.schema.train import Train

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PATTERN_WORDS = {NAME_PATTERN: "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit",
                 COLOUR_PATTERN: "'#' and six hexadecimal digits",
                 TOKEN_PATTERN: "small letters, digits, '_' and '-' in < >"}
"""What a pattern asks for, in words."""


def _check_family(value: str) -> str:
    names = families.family_names()
    if value not in names:
        raise PydanticCustomError("wants_family", "expected one of {names}", {"names": ", ".join(names)})
    return value


def _list_families(schema: dict[str, Any]) -> None:
    schema["enum"] = list(families.family_names())


class Base(Part):
    """The model that is personalised."""

    type: Annotated[Text, AfterValidator(_check_family), Field(json_schema_extra=_list_families)] = "sd"
    """The base's family."""
    path: Text
    """`embedded`, a folder in diffusers format (relative to the recipe), or a Hub id such as `owner/name`."""
    revision: Annotated[Text | None, OrNone] = None
    """For a Hub id: the commit, tag or branch; a 40-digit commit gives the same base tomorrow."""
    variant: Annotated[Text | None, OrNone] = None
    """The files' variant, such as `fp16`."""


DEFAULT_CLASS_IMAGES = 100
"""Class images that the base makes where `prior.count` is left out."""


class Prior(Part):
    """Prior preservation keeps the class from turning into the subject.

    In three ways, one at a time: by class images that the base makes, which need nothing but time; by your own, which
    are real but must be found; or by what the base itself predicts, which needs no class images at all. `count`,
    `steps` and `guidance` say how class images are made, so they stand with the first way only; `weight` with each.
    """

    NEUTRAL: ClassVar[dict[str, object]] = {"images": None, "target": "images"}

    count: Annotated[Int | None, Field(ge=1, le=100_000), OrNone] = None
    """How many class images are made, of each class where subjects have several; left out, 100."""
    weight: Annotated[Float, Field(ge=0)] = 1.0
    """Weight of the class half of the loss."""
    steps: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """Sampler steps of a class image; left out, what suits the base."""
    guidance: Annotated[Float | None, Field(ge=0), OrNone] = None
    """Classifier-free guidance of a class image; left out, what suits the base."""
    images: Annotated[Text | None, OrNone] = None
    """A folder of your own class images (relative to the recipe); a .txt beside one is its own prompt."""
    target: Literal["images", "base"] = "images"
    """What the class half aims at: class images; or what the base predicts for the instance images as the class."""

    @property
    def generated_count(self) -> int:
        """How many class images of a class the base makes: none beside the user's own, or where it is the target."""
        return 0 if self.images is not None or self.target == "base" else self.count or DEFAULT_CLASS_IMAGES


class Samples(Part):
    """The pictures of `before_after.png`, and those that are drawn while training."""

    NEUTRAL: ClassVar[dict[str, object]] = {"every": None}

    prompts: Annotated[tuple[Prompt, ...] | None, Field(min_length=1, max_length=16), OrNone] = None
    """One column each; left out, the instance prompt in several places and the class prompt."""
    steps: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """Sampler steps; left out, what suits the base."""
    guidance: Annotated[Float | None, Field(ge=0), OrNone] = None
    """Classifier-free guidance; left out, what suits the base."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first column; the others count up."""
    every: Annotated[Int | None, Field(ge=1), OrNone] = None
    """Steps between pictures that are drawn while training, into the run's folder `.dbrun/runs/<id>/samples/`; left
    out, none; changes no result."""


class Recipe(Part):
    """A dbrun recipe: one subject, or several, taught to one base."""

    schema_: Annotated[Literal["dbrun/v1"], Field(alias="schema")]
    """The version of the recipe language."""
    name: Annotated[Text, Field(pattern=NAME_PATTERN, examples=["sks_dog"])]
    """The run's name: the exports go to `outputs/<name>/`."""
    base: Base
    """The model that is personalised."""
    subject: Annotated[Subject | None, OrNone] = None
    """What is to be learnt."""
    subjects: Annotated[tuple[Subject, ...] | None, Field(min_length=1), OrNone] = None
    """In place of `subject`, several that one adapter learns together, each with pictures, prompts and class."""
    prior: Annotated[Prior | None, OrNone] = None
    """Prior preservation; left out, none."""
    images: Images = Images.from_defaults()
    """How pictures are prepared."""
    adapt: Adapt
    """Which components are adapted, and how."""
    objective: Objective = Objective.from_defaults()
    """What the denoiser learns to predict, and how its error counts."""
    train: Train = Train.from_defaults()
    """The training."""
    samples: Samples = Samples.from_defaults()
    """The pictures of `before_after.png`, and those that are drawn while training."""
    trackers: Annotated[tuple[Tracker, ...] | None, OrNone] = None
    """Programs that are told how training goes; metrics.jsonl in the run's folder is written all the same."""
    export: Annotated[tuple[Export, ...] | None, Field(min_length=1, description=export_description()), OrNone] = None
    launch: Launch = Launch()
    """In how many processes the work is done; changes no result."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where it runs; auto takes CUDA, then MPS, then the CPU."""
    threads: Annotated[Int, Field(ge=1, le=1024)] = 1
    """CPU threads. Results on a CPU depend on it, so it is a number of the recipe, not of the machine."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """Every random draw of the run follows from it."""

    @property
    def subjects_by_key(self) -> Mapping[str, Subject]:
        """The subject, or each of several, by its key in the recipe."""
        if self.subject is not None:
            return {"subject": self.subject}
        return {f"subjects.{number}": one for number, one in enumerate(self.subjects or ())}

    @property
    def generated_class_prompts(self) -> tuple[str | tuple[str, ...], ...]:
        """The class prompts of the subjects whose class images the base makes, `prior.count` for each.

        Subjects of one class share its images; the order in which a recipe lists its subjects does not count.
        """
        asked = [one.class_prompt for one in self.subjects_by_key.values()
                 if one.class_prompt and one.class_images is None]
        return tuple(sorted(set(asked), key=prompt_cycle)) if self.prior and self.prior.generated_count else ()
