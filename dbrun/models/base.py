"""Interfaces of a base model: `Family`, its facts without torch, and `Model`, a base loaded in memory.

Stages and the training loop use only these two classes and never compare with a family's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dbrun.config_types import subclasses
from dbrun.models.configs import SCHEDULER_FILE, loaded_class, read_config
from dbrun.models.scheduling import check_scheduler_config

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from dbrun.diffusion.process import DiffusionProcess

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


def no_component(name: str) -> None:
    """No component is in memory already: the default of `Model.find_kept`."""


@dataclass(frozen=True)
class Sampling:
    """Default sampler settings of a base. steps: sampler steps; guidance: scale of classifier-free guidance."""

    steps: int
    guidance: float


class Family:
    """Architecture of base models: the facts that planning needs, all of them without importing torch.

    Each subclass has a file of its own in this folder and sets NAME; `load` returns the matching `Model`.
    """

    NAME: ClassVar[str]
    pipeline_classes: ClassVar[tuple[str, ...]]
    """Values of `_class_name` in a base's model_index.json that mark it as this family; `load` uses the first."""
    subfolders: ClassVar[tuple[str, ...]]
    """Sub-folders of a base's folder that are read; all others are ignored."""
    scheduler_folders: ClassVar[tuple[str, ...]] = ("scheduler",)
    """Those of the sub-folders that hold a scheduler config."""
    scheduler_classes: ClassVar[tuple[str, ...]]
    """Values of `_class_name` in a scheduler config whose process the family's training follows."""
    components: ClassVar[Mapping[str, str]]
    """Adaptable component → its attribute on the diffusers pipeline; "denoiser" comes first."""
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Text encoders by their names in model_index.json, in the order in which a prompt is encoded."""
    autoencoder: ClassVar[str | None] = None
    """Autoencoder by its name in model_index.json; None for a family without a latent space."""
    token_components: ClassVar[tuple[str, ...]] = ()
    """Components that are new words (textual inversion). `Model.module` returns their vectors, a ParameterDict whose
    attribute `vocabulary` is the `Vocabulary` that they extend."""
    component_docs: ClassVar[Mapping[str, str]]
    """Component, also of `token_components` → its text in the recipe's JSON schema, shown as the editor's tooltip."""
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """Component → name of a preset of `targets` → patterns of module names that get an adapter."""
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]]
    """Component → (prefix of its layers' names on the module, prefix in a file for the pipeline's
    `load_lora_weights`). A component that `load_lora_weights` ignores is left out."""
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Component → (prefix on the module, prefix in a file of kohya's trainers, where the rest of the name has `_` for
    every `.`). A component that no reader of such files knows is left out."""
    default_sampling: ClassVar[Sampling]
    """Sampler settings of a base that brings none of its own."""
    # both bounds feed the check of free disk space before a run: too high costs nothing, too low fills the disk
    encoded_bytes_per_pixel: ClassVar[float] = 16.0
    """Upper bound of the bytes that `encode_images` returns, per pixel of the picture."""
    encoded_bytes_per_prompt: ClassVar[int] = 2 * 2**20
    """Upper bound of the bytes that `encode_prompts` returns per prompt."""
    not_adaptable: ClassVar[Mapping[str, str]] = {}
    """Component that cannot be adapted → the reason, a clause that follows the family's name in a message."""
    class_labels: ClassVar[tuple[str, ...]] = ("none",)
    """Allowed values of `train.class_labels`; the first is what the diffusers pipeline uses when it samples."""
    class_labels_doc: ClassVar[str] = ""
    """Text of `train.class_labels` in the recipe's schema; empty where there is nothing to choose."""
    start_image_reason: ClassVar[str | None] = None
    """Why `generate` needs a start image, a clause such as "enlarges pictures"; None where a prompt is enough."""

    def resolution_multiple(self, folder: Path) -> int:
        """Pixels that the resolution must be a multiple of, read from the configs in folder; without torch."""
        raise NotImplementedError

    def native_resolution(self, folder: Path) -> int:
        """Side in pixels of the pictures the base was trained on, read from the configs in folder; without torch."""
        raise NotImplementedError

    def max_prompt_tokens(self, folder: Path) -> int:
        """Most tokens that a prompt may have, start and end marks not counted; without torch."""
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
        """Load one of `weight_components`: safetensors only, offline, frozen, in eval mode, on device.

        Raises RecipeError where it cannot be loaded.
        """
        raise NotImplementedError

    def empty_component(self, folder: Path, name: str) -> nn.Module:
        """One of `weight_components` by its config alone: names and shapes on torch's meta device, no weights."""
        raise NotImplementedError

    def component_dtype(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """Dtype in which a component is loaded, where the others have `dtype`."""
        return dtype

    def scheduler_config(self, folder: Path) -> dict[str, Any]:
        """Config of the base's scheduler, read from folder; without torch. Raises RecipeError."""
        return read_config(folder / "scheduler" / SCHEDULER_FILE)

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError where the configs in folder say that training here would not fit the base.

        Reads model_index.json and every `config.json` and scheduler config, but no weights; without torch.
        """
        index = read_config(folder / "model_index.json")
        for name in self.scheduler_folders:
            file = folder / name / SCHEDULER_FILE
            check_scheduler_config(read_config(file), file, self.scheduler_classes, loaded_class(index, name))

    def single_file_obstacle(self, folder: Path | None) -> str | None:
        """Reason why a base cannot be written as a checkpoint of one file, a clause; None where it can be.

        folder: the base's folder, whose configs are read without torch; None while it is not known yet.
        """
        return f"which no other program reads for `base.type: {self.NAME}`"

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a tiny base of the real classes with seeded random weights, for tests.

        prediction: the scheduler's `prediction_type`: epsilon, v_prediction or sample.
        """
        raise NotImplementedError


class Model:
    """Base in memory: encodes pictures and prompts, predicts, and samples. It knows no adapter and no loss.

    A component's weights are loaded at their first use, and freed by `release`: no step needs all of them at once.
    pipeline: a diffusers pipeline without weights, which holds tokenizers and schedulers; folder, variant: where the
    weights are loaded from; device, dtype: of every component (see `Family.component_dtype`).
    """

    def __init__(self, family: Family, pipeline: Any, folder: Path, device: torch.device, dtype: torch.dtype,
                 variant: str | None = None) -> None:
        self.family, self.folder, self.device, self.dtype, self.variant = family, folder, device, dtype, variant
        self._pipeline = pipeline
        self._weights: dict[str, Any] = {}
        # every loaded parameter with the tensor that it was loaded with; a reference costs nothing until one changes
        self._original_data: dict[str, list[tuple[nn.Parameter, Tensor]]] = {}
        self._vocabulary_sizes = self._count_tokens()
        self.find_kept: Callable[[str], nn.Module | None] = no_component
        """Gives an untouched component, on the device, that is in memory already; None to load it."""
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
        return type(empty)(**{**held, **self._weights}, **settings)

    @property
    def components(self) -> Mapping[str, Any]:
        """Components of the whole pipeline by their names in model_index.json; None for one that the base lacks."""
        found: Mapping[str, Any] = self.pipeline.components
        return found

    def component(self, name: str) -> Any:
        """Component by its name in model_index.json, loaded at the first call. Raises RecipeError."""
        if name not in self.family.weight_components:
            return getattr(self._pipeline, name)
        if name not in self._weights:
            self._weights[name] = module = self._load(name)
            self._original_data[name] = [(parameter, parameter.data) for parameter in module.parameters()]
        return self._weights[name]

    def _load(self, name: str) -> nn.Module:
        """The untouched component, from memory or from the base's files."""
        import torch

        # whatever mode the first use is in: no adapter could train on tensors made under inference_mode
        with torch.inference_mode(mode=False):
            kept = self.find_kept(name)
            if kept is not None:
                return kept
            return self.family.load_component(self.folder, name, device=self.device, variant=self.variant,
                                              dtype=self.family.component_dtype(name, self.dtype))

    def loaded_modules(self) -> Mapping[str, nn.Module]:
        """Modules of the adaptable components that are in memory, and of new words, by component."""
        loaded: dict[str, nn.Module] = dict(self.new_tokens)
        for component, name in self.family.components.items():
            if name in self._weights:
                loaded[component] = self._weights[name]
        return loaded

    def release(self, *names: str) -> None:
        """Free the weights of these components; the next use loads them again, without adapters."""
        import gc

        import torch

        if self._weights.keys().isdisjoint(names):
            return
        for name in names:
            self._weights.pop(name, None)
            self._original_data.pop(name, None)
        # hooks and caches of the libraries make cycles, which only the collector frees
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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

    def release_text_encoders(self) -> None:
        """Free the text encoders, except those that carry trainable weights or new words."""
        for name in self.family.text_encoders:
            module = self._weights.get(name)
            in_use = module is not None and any(parameter.requires_grad for parameter in module.parameters())
            if not in_use and not self.new_tokens:
                self.release(name)

    def take_untouched(self, name: str) -> nn.Module | None:
        """Give up a component that is as it was loaded; None where it is not in memory, or was replaced."""
        if self._original_data.pop(name, None) is None:
            return None
        module: nn.Module = self._weights.pop(name)
        return module

    def empty_module(self, component: str) -> nn.Module:
        """Module of an adaptable component on the meta device: names and shapes, without reading any weights."""
        return self.family.empty_component(self.folder, self.family.components[component])

    def replace_components(self, components: Mapping[str, object]) -> None:
        """Replace components of the pipeline, by their names in model_index.json."""
        for name, component in components.items():
            if name in self.family.weight_components:
                self._weights[name] = component
                self._original_data.pop(name, None)
            else:
                setattr(self._pipeline, name, component)

    def restore(self) -> None:
        """Make this the untouched base again, bit for bit, once its layers carry no adapter any more.

        Parameters get the tensors that they were loaded with; what was replaced, and text encoders with new words, are
        released. Whoever changes a weight assigns its `data` anew, and never writes into the tensor.
        """
        if self._count_tokens() != self._vocabulary_sizes:
            opened = self.family.load(self.folder, device=self.device, dtype=self.dtype, variant=self.variant)
            opened._pipeline.scheduler = self.scheduler
            self._pipeline = opened._pipeline
            self.release(*self.family.text_encoders)
        self.new_tokens.clear()
        self.release(*(self._weights.keys() - self._original_data.keys()))
        for parameters in self._original_data.values():
            for parameter, data in parameters:
                parameter.data, parameter.grad = data, None
                parameter.requires_grad_(False)
        for module in self._weights.values():
            module.eval()

    def _count_tokens(self) -> dict[str, int]:
        """Number of tokens of each tokenizer, by its name in model_index.json."""
        return {name: len(part) for name, part in self._pipeline.components.items() if name.startswith("tokenizer")}

    def diffusion_process(self) -> DiffusionProcess:
        """Diffusion process that the base was trained with, from its scheduler's config."""
        raise NotImplementedError

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

    def encode_prompts(self, prompts: Sequence[str]) -> list[Condition]:
        """Encode prompts to one condition each; differentiable, so that it serves trained text encoders, too."""
        raise NotImplementedError

    def collate_conditions(self, conditions: Sequence[Condition]) -> Condition:
        """Stack conditions of single prompts to a batch: every tensor gets a first axis B."""
        raise NotImplementedError

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predict from x_t [B, C, h, w] at timesteps t, int64 [B]; of x_t's shape, variance channels dropped.

        condition: the batch of `collate_conditions`, with the extra conditions of `sample_x0` added.
        """
        raise NotImplementedError

    def single_file_state_dict(self) -> Mapping[str, Tensor]:
        """All tensors by their names in a checkpoint of one file: float32 on the CPU, weights [out, in …]."""
        raise NotImplementedError

    def sampling_conditions(self, prompts: Sequence[str]) -> dict[str, SamplingConditions]:
        """Encode prompts for `generate`, each alone; the text encoders may be released afterwards."""
        import torch

        with torch.no_grad():
            (negative,) = self.encode_prompts([""])
            return {prompt: SamplingConditions(self.encode_prompts([prompt])[0], negative)
                    for prompt in dict.fromkeys(prompts)}

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
                 start_image: Image | None = None, on_step: Callable[[], object] = no_op,
                 conditions: SamplingConditions | None = None) -> Image:
        """Sample one picture; equal arguments give an equal picture, whatever was sampled before.

        resolution: the side in pixels; on_step: called after each sampler step, may raise to stop;
        start_image: what the family's `start_image` returned; None where a prompt is enough;
        conditions: those of prompt in `sampling_conditions`, None to encode it now.
        """
        raise NotImplementedError


def families() -> Mapping[str, Family]:
    """Every family that has a file in this folder, by name."""
    # a new family is a new file: nothing lists them
    return {family.NAME: family() for family in subclasses("dbrun.models", Family)}


def family_names() -> tuple[str, ...]:
    """Names of all families: the allowed values of `base.type`."""
    return tuple(families())


def component_docs() -> Mapping[str, str]:
    """Every adaptable component with its schema text, taken from the first family that has it."""
    docs: dict[str, str] = {}
    for family in families().values():
        for name, text in family.component_docs.items():
            docs.setdefault(name, text)
    return docs


def class_label_names() -> tuple[str, ...]:
    """Allowed values of `train.class_labels` over all families, each family's own default last."""
    names: list[str] = []
    for family in families().values():
        default, *others = family.class_labels
        names += [*others, default]
    return tuple(dict.fromkeys(names))


def class_labels_doc() -> str:
    """Schema text of `train.class_labels`: the texts of all families that have one, joined."""
    texts = [family.class_labels_doc for family in families().values() if family.class_labels_doc]
    # a family that inherits its text from another would say it twice
    return " ".join(dict.fromkeys(texts))
