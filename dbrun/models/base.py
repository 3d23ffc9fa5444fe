"""Interfaces of a base model: `Family`, its facts without torch, and `Model`, a base loaded in memory.

Stages and the training loop use only these two classes and never compare with a family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, cast

from dbrun.config_types import subclasses
from dbrun.models.component_weights import ComponentWeights
from dbrun.models.configs import SCHEDULER_FILE, check_component_configs, loaded_class, read_config
from dbrun.models.file_names import FileNames
from dbrun.models.prompt_encoding import NOTHING_KNOWN, KnownOutputs, PromptEncoding
from dbrun.models.prompt_reading import USUAL_READING
from dbrun.models.scheduling import check_scheduler_config
from dbrun.models.training_facts import TrainingFacts

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from dbrun.diffusion.process import Process
    from dbrun.models.ldm_layouts import Layout
    from dbrun.models.prompt_length import PromptLimit
    from dbrun.options.timesteps import Shift

Condition = Mapping[str, "Tensor"]
"""Conditioning of the denoiser by a prompt: named tensors, such as `hidden` [L, D]; batched, [B, L, D]."""

Randn = Callable[[str, Sequence[int]], "Tensor"]
"""(what for, shape of one row) -> standard normal noise [B, *shape], each row from a seed with its own address."""


class SamplingConditions(NamedTuple):
    """Conditions of one picture that is sampled. prompt, negative: encoded alone; negative: of the empty prompt."""

    prompt: Condition
    negative: Condition


class CleanBatch(NamedTuple):
    """Clean training targets. x0: float32 [B, C, h, w], latents or pixels as the family trains on them.

    extra_conditions: conditions that depend on the picture and not on its prompt, each [B, …]; empty for most families.
    """

    x0: Tensor
    extra_conditions: Condition


def no_op(*ignored: object) -> None:
    """Do nothing: the default of an optional callback."""


@dataclass(frozen=True)
class Sampling:
    """Default sampler settings of a base. steps: sampler steps; guidance: scale of classifier-free guidance."""

    steps: int
    guidance: float


class Family(TrainingFacts, FileNames):
    """Architecture of base models: the facts that planning needs, all of them without importing torch.

    Each subclass has a file of its own in this folder and sets NAME; `load` returns the matching `Model`.
    """

    NAME: ClassVar[str]
    pipeline_classes: ClassVar[tuple[str, ...]]
    """Values of `_class_name` in a base's model_index.json that mark it as this family; `load` uses the first."""
    refused_pipelines: ClassVar[Mapping[str, str]] = {}
    """Other values of `_class_name` that look like this family → what such a base is, a noun with its reason."""
    subfolders: ClassVar[tuple[str, ...]]
    """Sub-folders of a base's folder that are read; all others are ignored."""
    components: ClassVar[Mapping[str, str]]
    """Adaptable component → its attribute on the diffusers pipeline; "denoiser" comes first."""
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Text encoders by their names in model_index.json, in the order in which a prompt is encoded."""
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    """Tokenizer of each of `text_encoders`, by its name in model_index.json."""
    size_conditioned: ClassVar[bool] = False
    """Whether `predict` takes `time_ids` [B, 6] in pixels: (height, width) of the original, (top, left), crop size."""
    autoencoder: ClassVar[str | None] = None
    """Autoencoder by its name in model_index.json; None for a family without a latent space."""
    token_components: ClassVar[tuple[str, ...]] = ()
    """Components that are new words (textual inversion). `Model.module` returns their vectors, a module whose
    attribute `vocabulary` is the `Vocabulary` or `JointVocabulary` that they extend."""
    component_docs: ClassVar[Mapping[str, str]]
    """Component, also of `token_components` → its text in the recipe's JSON schema, shown as the editor's tooltip."""
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """Component → name of a preset of `targets` → patterns of module names that get an adapter."""
    default_sampling: ClassVar[Sampling]
    """Sampler settings of a base that brings none of its own."""
    guidance_arguments: ClassVar[str] = "guidance_scale={:g}"
    """Arguments of the pipeline's call that set the guidance, `{:g}` for the scale; written into model cards."""
    # both bounds feed the check of free disk space before a run: too high costs nothing, too low fills the disk
    encoded_bytes_per_pixel: ClassVar[float] = 16.0
    """Upper bound of the bytes that `encode_images` returns, per pixel of the picture."""
    encoded_bytes_per_prompt: ClassVar[int] = 2 * 2**20
    """Upper bound of the bytes that `encode_prompts` returns per prompt."""
    not_adaptable: ClassVar[Mapping[str, str]] = {}
    """Component that cannot be adapted → the reason, a clause that follows the family's name in a message."""
    checkpoint_layouts: ClassVar[tuple[Layout, ...]] = ()
    """Layouts of checkpoints of one file that are read; empty for a family that has none."""
    one_piece_reason: ClassVar[str | None] = "reads a prompt in one piece"
    """Why `base.prompt_chunks` must be 1, a clause that follows the family's name; None if it may be more."""
    clip_skip_reason: ClassVar[str | None] = "has no CLIP text encoder"
    """Why `base.clip_skip` must be 1, such a clause; None if it may be more."""
    start_image_reason: ClassVar[str | None] = None
    """Why `generate` needs a start image, a clause such as "enlarges pictures"; None where a prompt is enough."""

    def resolution_multiple(self, folder: Path) -> int:
        """Pixels that the resolution must be a multiple of, read from the configs in folder; without torch."""
        raise NotImplementedError

    def native_resolution(self, folder: Path) -> int:
        """Side in pixels of the pictures the base was trained on, read from the configs in folder; without torch."""
        raise NotImplementedError

    def prompt_limits(self, folder: Path) -> tuple[PromptLimit, ...]:
        """How much of a prompt each text encoder reads; of several with one limit only one is named. Without torch."""
        raise NotImplementedError

    def start_image(self, picture: Image) -> Image:
        """Start image from which `generate` can draw this square picture; for families with a `start_image_reason`."""
        raise NotImplementedError

    def normalize_prompt(self, prompt: str) -> str:
        """Prompt as the tokenizer gets it, for example in lower case."""
        return prompt

    @property
    def weight_components(self) -> tuple[str, ...]:
        """Components that hold weights, by their names in model_index.json."""
        autoencoder = (self.autoencoder,) if self.autoencoder else ()
        return (*self.text_encoders, *autoencoder, self.components["denoiser"])

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """Open a base in a folder in diffusers format; `Model` loads each component's weights at their first use.

        variant: the infix of the weight files' names, such as "fp16". Raises RecipeError where it is no such base.
        """
        raise NotImplementedError

    def load_component(self, folder: Path, name: str, *, device: torch.device, dtype: torch.dtype,
                       variant: str | None) -> nn.Module:
        """Load one of `weight_components`: safetensors, offline, frozen, eval mode, on device. Raises RecipeError."""
        raise NotImplementedError

    def empty_component(self, folder: Path, name: str) -> nn.Module:
        """One of `weight_components` by its config alone: names and shapes on torch's meta device, no weights."""
        raise NotImplementedError

    def block_size(self, resolution: int) -> int:
        """Number of pictures of this side in pixels that are sampled at once; decided by nothing else."""
        return 1

    def component_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Dtype in which a component is loaded, where the others have `dtype`."""
        return dtype

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError where a config in folder is damaged, or says that training here would not fit the base.

        Reads model_index.json and the config of every component, but no weights; without torch."""
        index = read_config(folder / "model_index.json")
        check_component_configs(folder, self.subfolders)
        for name in self.scheduler_folders:
            file = folder / name / SCHEDULER_FILE
            check_scheduler_config(read_config(file), file, self.scheduler_classes, loaded_class(index, name))

    def single_file_obstacle(self, folder: Path | None) -> str | None:
        """Reason why a base cannot be written as a checkpoint of one file, a clause; None where it can be.

        folder: the base's folder, whose configs are read without torch; None while it is not known yet.
        """
        return f"which no other program reads for `base.type: {self.NAME}`"

    def written_layout(self, folder: Path) -> Layout:
        """One of `checkpoint_layouts`, in which the base in folder is written as one file; without torch."""
        raise NotImplementedError

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a tiny base of the real classes, seeded, for tests. prediction: its scheduler's `prediction_type`."""
        raise NotImplementedError


class Model(PromptEncoding):
    """Base in memory: encodes pictures and prompts, predicts, and samples. It knows no adapter and no loss.

    A component's weights are loaded at their first use, and freed by `release`: no step needs all of them at once.
    pipeline: a diffusers pipeline without weights, which holds tokenizers and schedulers; folder, variant: where the
    weights are loaded from; device, dtype: of every component (see `Family.component_dtype`); weights: those in memory.
    """

    family: Family

    def __init__(self, family: Family, pipeline: Any, folder: Path, device: torch.device, dtype: torch.dtype,
                 variant: str | None = None) -> None:
        self.family, self.folder, self.device, self.dtype, self.variant = family, folder, device, dtype, variant
        self._pipeline = pipeline
        self.weights = ComponentWeights(self._load_component, device)
        self.prompt_reading = USUAL_READING
        self.guidance = 1.0
        """Guidance scale that `predict` gives a denoiser that takes one."""
        self._vocabulary_sizes = self._count_tokens()
        self.new_tokens: dict[str, nn.Module] = {}
        """Trainable vectors of new words by their component's name in recipes, such as `trigger`."""

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline with all its components, loaded now where they are not."""
        return self.pipeline_with(*self.family.weight_components)

    def pipeline_with(self, *names: str) -> Any:
        """The diffusers pipeline with the weights of these components; others may be None."""
        for name in names:
            self.component(name)
        empty = self._pipeline
        held = empty.components
        settings = {name: value for name, value in empty.config.items()
                    if name not in held and not name.startswith("_")}
        # a new one at each call: one that is kept would hold weights that are released here
        return type(empty)(**{**held, **self.weights.loaded}, **settings)

    def component(self, name: str) -> Any:
        """Component by its name in model_index.json, loaded at the first call. Raises RecipeError."""
        if name not in self.family.weight_components:
            return getattr(self._pipeline, name)
        return self.weights.get(name)

    def _load_component(self, name: str) -> nn.Module:
        return self.family.load_component(self.folder, name, device=self.weights.load_device(name),
                                          dtype=self.family.component_dtype(name, self.dtype), variant=self.variant)

    def loaded_modules(self) -> Mapping[str, nn.Module]:
        """Modules of the adaptable components that are in memory, and of new words, by component."""
        loaded: dict[str, nn.Module] = dict(self.new_tokens)
        for component, name in self.family.components.items():
            if name in self.weights.loaded:
                loaded[component] = self.weights.loaded[name]
        return loaded

    def release(self, *names: str) -> None:
        """Free the weights of these components; the next use loads them again, without adapters."""
        self.weights.release(names)

    @property
    def scheduler(self) -> Any:
        """Scheduler of the base, the one it was trained with."""
        return self._pipeline.scheduler

    @property
    def denoiser(self) -> nn.Module:
        """Network that predicts from x_t, such as the UNet."""
        return self.module("denoiser")

    def module(self, component: str) -> nn.Module:
        """Module of an adaptable component, or the ParameterDict of a component of new words."""
        module: nn.Module = self.component(self.family.components[component])
        return module

    def release_text_encoders(self, except_for: Collection[str] = ()) -> None:
        """Free the text encoders, except these and those that carry adapters, changed weights or new words."""
        if self.new_tokens:
            return
        untouched = {name for name in self.family.text_encoders if self.weights.is_untouched(name)}
        self.release(*untouched.difference(except_for))

    def empty_module(self, component: str) -> nn.Module:
        """Module of an adaptable component on the meta device: names and shapes, without reading any weights."""
        return self.family.empty_component(self.folder, self.family.components[component])

    def replace_components(self, components: Mapping[str, object]) -> None:
        """Replace components of the pipeline, by their names in model_index.json."""
        for name, component in components.items():
            if name in self.family.weight_components:
                self.weights.replace(name, cast("nn.Module", component))
            else:
                setattr(self._pipeline, name, component)

    def restore(self) -> None:
        """Make this the untouched base again, bit for bit, once its layers carry no adapter any more.

        Parameters get the tensors that they had; what was replaced, and text encoders with new words, are released.
        """
        if self._count_tokens() != self._vocabulary_sizes:
            opened = self.family.load(self.folder, device=self.device, dtype=self.dtype, variant=self.variant)
            opened._pipeline.scheduler = self.scheduler
            self._pipeline = opened._pipeline
            self.release(*self.family.text_encoders)
        self.new_tokens.clear()
        self.weights.restore()

    def _count_tokens(self) -> dict[str, int]:
        """Number of tokens of each tokenizer, by its name in model_index.json."""
        return {name: len(part) for name, part in self._pipeline.components.items() if name.startswith("tokenizer")}

    def diffusion_process(self) -> Process:
        """Process that the base was trained with, from its scheduler's config."""
        raise NotImplementedError

    def timestep_shift(self, wanted: Shift | None, shape: Sequence[int]) -> float:
        """Shift of drawn timesteps for x0 of this shape [C, h, w], 1 for none. wanted: the recipe's, if it has one."""
        return 1.0

    def with_scheduler_changes(self, changes: Mapping[str, object]) -> Self:
        """Copy of this base with changes to its scheduler's config; it shares the weights, this base stays as it is."""
        if not changes:
            return self
        # shallow copies, which share what is loaded: a second set of weights may not fit on the device
        other, scheduler = copy(self), self.scheduler
        other._pipeline = copy(self._pipeline)
        other._pipeline.scheduler = type(scheduler).from_config({**scheduler.config, **changes})
        return other

    def sampling_scheduler(self) -> Any:
        """New scheduler for `generate`; schedulers keep state between steps, so no two samplings share one."""
        return type(self.scheduler).from_config(self.scheduler.config)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Encode pixels [B, 3, H, W] in [-1, 1] to float32 [B, …]: all that `sample_x0` needs; it is cached on disk."""
        raise NotImplementedError

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """Draw x0 and the extra conditions from stored, [B, …] as `encode_images` returned it.

        randn: the only source of chance, so that the seeds decide every draw; class_labels: one of the family's
        `class_labels`.
        """
        raise NotImplementedError

    def denormalise(self, x0: Tensor) -> Tensor:
        """Latents as the autoencoder decodes them, from x0 [B, C, h, w]: the inverse of the normalisation."""
        return x0

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict from x_t [B, C, h, w] at timesteps t, int64 [B]; of x_t's shape, variance channels dropped.

        condition: the batch of `collate_conditions`, with the extra conditions of `sample_x0` added.
        """
        raise NotImplementedError

    def single_file_state_dict(self) -> Mapping[str, Tensor]:
        """All tensors by their names in a checkpoint of one file: float32 on the CPU, weights [out, in …]."""
        raise NotImplementedError

    def sampling_conditions(self, prompts: Sequence[str],
                            known: KnownOutputs = NOTHING_KNOWN) -> dict[str, SamplingConditions]:
        """Encode prompts for `generate`, each alone; the text encoders may be released afterwards.

        known: as in `encode_prompts`, also of the empty prompt.
        """
        import torch

        with torch.no_grad():
            (negative,) = self.encode_prompts([""], known)
            return {prompt: SamplingConditions(self.encode_prompts([prompt], known)[0], negative)
                    for prompt in dict.fromkeys(prompts)}

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
                 start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> Image:
        """Sample one picture; equal arguments give an equal picture, whatever was sampled before.

        resolution: the side in pixels; on_step: called after each sampler step, may raise to stop;
        start_image: what the family's `start_image` returned; None where a prompt is enough.
        """
        conditions = self.sampling_conditions([prompt])[prompt]
        return self.generate_block([conditions], [seed], steps=steps, guidance=guidance, resolution=resolution,
                                   start_image=start_image, on_step=on_step)[0]

    def generate_block(self, conditions: Sequence[SamplingConditions], seeds: Sequence[int], *, steps: int,
                       guidance: float, resolution: int, start_image: Image | None = None,
                       on_step: Callable[[], object] = no_op) -> list[Image]:
        """Sample one picture for each of the conditions and its seed, at once; arguments as those of `generate`.

        A picture's lowest bits depend on the number of pictures, but not on what the others are.
        """
        raise NotImplementedError


def families() -> Mapping[str, Family]:
    """Every family that has a file in this folder, by name: nothing lists them."""
    return {family.NAME: family() for family in subclasses("dbrun.models", Family)}


def family_names() -> tuple[str, ...]:
    """Names of all families: the allowed values of `base.type`."""
    return tuple(families())
