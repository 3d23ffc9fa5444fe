"""The recipe model: every key with its type, its default and the description that editors show."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from dbrun.adapters.embedding import TOKEN_PATTERN
from dbrun.config_types import FilledText, Float, Int, OrNone, Part, PathText, Text
from dbrun.expectations import EXPECTATION_PATTERN
from dbrun.models import base as families
from dbrun.models.prompt_reading import PromptReading
from dbrun.models.quantisation import quantisations
from dbrun.options.objective import Objective
from dbrun.options.precision import Precision
from dbrun.options.trackers import Tracker
from dbrun.recipe.schema.adapt import Adapt
from dbrun.recipe.schema.export import Export, export_description
from dbrun.recipe.schema.images import COLOUR_PATTERN, Images
from dbrun.recipe.schema.launch import Launch, Threads
from dbrun.recipe.schema.scoring import Evaluate, ScoreEncoder, Select
from dbrun.recipe.schema.subject import Prompt, Subject, prompt_cycle
from dbrun.recipe.schema.train import Train
from dbrun.scores.encoder import Role

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PATTERN_WORDS = {NAME_PATTERN: "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit",
                 COLOUR_PATTERN: "'#' and six hexadecimal digits",
                 TOKEN_PATTERN: "small letters, digits, '_' and '-' in < >",
                 EXPECTATION_PATTERN: "'>=' or '<=' and a number in quotes; with 'of base', times the base's score"}
"""Pattern → its description in error messages."""


def _check_family(value: str) -> str:
    names = families.family_names()
    if value not in names:
        raise PydanticCustomError("wants_family", "expected one of {names}", {"names": ", ".join(names)})
    return value


def _list_families(schema: dict[str, Any]) -> None:
    schema["enum"] = list(families.family_names())


QuantisationName: Any = Literal[tuple(quantisations())]


class Base(Part):
    """The base model that is personalised."""

    NEUTRAL: ClassVar[dict[str, object]] = {"quantise": None, "offload": None}

    type: Annotated[Text, AfterValidator(_check_family), Field(json_schema_extra=_list_families)] = "sd"
    """The base's family."""
    path: PathText
    """`embedded`, a folder in diffusers format or a checkpoint of one file (both relative to the recipe), or a Hub id
    such as `owner/name`."""
    like: Annotated[PathText | None, OrNone] = None
    """For a checkpoint of one file: where its tokenizer is, which such files lack. A folder in diffusers format
    (relative to the recipe), or a Hub id with its commit, `owner/name@commit`, of which only the tokenizer is
    fetched."""
    prediction: Annotated[Literal["epsilon", "v_prediction"] | None, OrNone] = None
    """For a checkpoint of one file: what it predicts; left out, what the file itself says, else the usual for its
    kind. Models of v-prediction draw only noise or grey as epsilon."""
    revision: Annotated[FilledText | None, OrNone] = None
    """For a Hub id: its commit, tag or branch; only a 40-digit commit always gives the same base."""
    variant: Annotated[FilledText | None, OrNone] = None
    """Variant of the weight files, such as `fp16`."""
    prompt_chunks: Annotated[Int, Field(ge=1, le=4)] = 1
    """Pieces of 75 tokens that prompts are read in, for captions that are longer: 2 reads 150 tokens, 3 reads 225. For
    CLIP text encoders; ComfyUI and A1111 read long prompts in the same way."""
    clip_skip: Annotated[Int, Field(ge=1, le=12)] = 1
    """Layer of the text encoder that is read, counted from the last: 1, or 2 for most models of anime pictures over
    Stable Diffusion 1.x. Sample with the same clip skip. Not for SDXL."""
    quantise: Annotated[QuantisationName | None, OrNone] = None
    """Hold the weights of the denoiser's linear layers in fewer bits, while adapters learn on top of them: less memory,
    slightly other predictions, and often slower steps. nf4: 4 bits; int8: 8 bits, inputs too; fp8: 8 bits. Text
    encoders and autoencoder stay as they are. nf4 and int8 need the package bitsandbytes, fp8 needs torchao. Left out:
    the base's own weights, in `train.precision`."""
    offload: Annotated[Literal["blocks"] | None, OrNone] = None
    """blocks: keep the blocks of the denoiser in CPU memory, and copy each to the GPU while it computes: far less GPU
    memory, slower steps, the same result. For large bases on small cards, with `train.gradient_checkpointing: true`;
    does nothing on a CPU. Left out: the whole denoiser is on the GPU."""

    @property
    def prompt_reading(self) -> PromptReading:
        """`prompt_chunks` and `clip_skip`."""
        return PromptReading(self.prompt_chunks, self.clip_skip)


DEFAULT_CLASS_IMAGES = 100
"""Generated class images per class where `prior.count` is left out."""


class Prior(Part):
    """Prior preservation (Ruiz et al. 2022, arXiv:2208.12242): keeps the class from turning into the subject.

    There are three ways, of which a recipe uses one: class images that the base generates, which cost only time; your
    own class images, which are real but must be collected; or the base's own predictions as the target, without any
    class images. `count`, `steps`, `guidance` and `precision` set how class images are generated, so they are allowed
    only with the first way; `weight` is allowed with all three.
    """

    # results from before the second and third way keep their cache keys
    NEUTRAL: ClassVar[dict[str, object]] = {"images": None, "target": "images", "precision": None}
    GENERATION_KEYS: ClassVar[tuple[str, ...]] = ("count", "steps", "guidance", "precision")
    """The keys that set how class images are generated."""

    count: Annotated[Int | None, Field(ge=1, le=100_000), OrNone] = None
    """Number of class images that are generated, for each class where there are several; left out, 100."""
    weight: Annotated[Float, Field(ge=0)] = 1.0
    """Weight of the class half of the loss."""
    steps: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """Sampler steps per class image; left out, the usual number for the base."""
    guidance: Annotated[Float | None, Field(ge=0), OrNone] = None
    """Classifier-free guidance scale of class images; left out, the usual scale for the base."""
    precision: Annotated[Precision | None, OrNone] = None
    """Number format in which class images are generated, where it is to differ from training: bf16 and fp16 are faster
    and take less memory. Left out, `train.precision`."""
    images: Annotated[PathText | None, OrNone] = None
    """A folder of your own class images (relative to the recipe); a .txt file beside one holds its own prompt."""
    target: Literal["images", "base"] = "images"
    """Target of the class half of the loss. `images`: class images. `base`: what the base predicts for the instance
    images under the class prompt."""

    @property
    def generated_count(self) -> int:
        """Number of class images per class that the base generates; 0 with own images or with `target: base`."""
        if self.images is not None or self.target == "base":
            return 0
        return self.count or DEFAULT_CLASS_IMAGES


class Samples(Part):
    """Sample pictures: those in `before_after.png`, and those drawn during training."""

    # results from before samples during training keep their cache keys
    NEUTRAL: ClassVar[dict[str, object]] = {"every": None}

    prompts: Annotated[tuple[Prompt, ...] | None, Field(min_length=1, max_length=16), OrNone] = None
    """Prompts of the samples, one column each; left out, the instance prompt in several places and the class prompt."""
    steps: Annotated[Int | None, Field(ge=1, le=1000), OrNone] = None
    """Sampler steps; left out, the usual number for the base."""
    guidance: Annotated[Float | None, Field(ge=0), OrNone] = None
    """Classifier-free guidance scale; left out, the usual scale for the base."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """Seed of the first column; each further column adds 1."""
    every: Annotated[Int | None, Field(ge=1), OrNone] = None
    """Steps between sample pictures during training, which go to `.dbrun/runs/<id>/samples/`; left out, none. Changes
    no result."""


class Recipe(Part):
    """A dbrun recipe: one subject, or several, taught to one base model."""

    schema_: Annotated[Literal["dbrun/v1"], Field(alias="schema")]
    """Version of the recipe language."""
    name: Annotated[Text, Field(pattern=NAME_PATTERN, examples=["sks_dog"])]
    """Name of the run; exports go to `outputs/<name>/`."""
    base: Base
    """The base model that is personalised."""
    subject: Annotated[Subject | None, OrNone] = None
    """What is learned."""
    subjects: Annotated[tuple[Subject, ...] | None, Field(min_length=1), OrNone] = None
    """Instead of `subject`: several subjects that one adapter learns together, each with its own pictures, prompts and
    class."""
    prior: Annotated[Prior | None, OrNone] = None
    """Prior preservation; left out, none."""
    images: Images = Images.from_defaults()
    """How pictures are prepared."""
    adapt: Adapt
    """Which components are adapted, and how."""
    objective: Objective = Objective.from_defaults()
    """What the denoiser learns to predict, and how its error counts."""
    train: Train = Train.from_defaults()
    """How training runs: length, batches, learning rate, optimizer, precision and checkpoints."""
    samples: Samples = Samples.from_defaults()
    """Sample pictures: those in `before_after.png`, and those drawn during training."""
    evaluate: Annotated[Evaluate | None, OrNone] = None
    """Scores of the exported adapter, and what is expected of them; left out, none."""
    select: Annotated[Select | None, OrNone] = None
    """Which candidate of the training is exported; left out, the last adapter."""
    trackers: Annotated[tuple[Tracker, ...] | None, OrNone] = None
    """Experiment trackers that training metrics are sent to; metrics.jsonl in the run's folder is always written."""
    export: Annotated[tuple[Export, ...] | None, Field(min_length=1, description=export_description()), OrNone] = None
    launch: Launch = Launch()
    """How many processes share the work; changes no result where `train.accumulation` is above 1."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Device to run on; auto uses CUDA if it is available, then MPS, then the CPU."""
    threads: Threads = 1
    """CPU threads. Results on a CPU depend on this number, so the recipe sets it, not the machine. `auto` uses all
    cores of the machine, shared by the processes of `launch`; where there are more or fewer, stages run again."""
    seed: Annotated[Int, Field(ge=0, lt=2**63)] = 0
    """Seed from which every random draw of the run is derived."""

    def shared_by(self, processes: int) -> Self:
        """The recipe as so many processes run it: a step of one micro-batch gets one for each of them.

        The result is that of one process with as many micro-batches, and has its cache key.
        """
        if processes == 1 or self.train.accumulation > 1:
            return self
        train = self.train.model_copy(update={"accumulation": processes})
        return self.model_copy(update={"train": train})

    @property
    def subjects_by_key(self) -> Mapping[str, Subject]:
        """Dotted key → subject: `subject`, or `subjects.0`, `subjects.1` …"""
        if self.subject is not None:
            return {"subject": self.subject}
        return {f"subjects.{index}": subject for index, subject in enumerate(self.subjects or ())}

    def keys_with_precision(self, wanted: Precision) -> tuple[str, ...]:
        """The keys that ask for a precision by name."""
        asked = {"train.precision": self.train.precision, "prior.precision": self.prior and self.prior.precision}
        return tuple(key for key, precision in asked.items() if precision == wanted)

    @property
    def score_encoders(self) -> Mapping[str, Mapping[Role, ScoreEncoder]]:
        """Section, `evaluate` or `select`, → the encoders that it uses by role; `select` may take those of `evaluate`.
        """
        sections: dict[str, Mapping[Role, ScoreEncoder]] = {}
        if self.evaluate is not None:
            sections["evaluate"] = self.evaluate.encoders
        if self.select is not None and self.select.draws_pictures:
            sections["select"] = self.select.encoders or sections.get("evaluate", {})
        return sections

    @property
    def generated_class_prompts(self) -> tuple[str | tuple[str, ...], ...]:
        """Class prompts whose class images the base generates, `prior.count` for each, sorted, without duplicates.

        Subjects with the same class prompt share its images.
        """
        if not self.prior or not self.prior.generated_count:
            return ()
        # sorted: the order of the subjects in a recipe must not change cache keys
        prompts = {subject.class_prompt for subject in self.subjects_by_key.values()
                   if subject.class_prompt and subject.class_images is None}
        return tuple(sorted(prompts, key=prompt_cycle))
