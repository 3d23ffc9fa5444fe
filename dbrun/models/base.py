"""What every base-model family answers, so that stages and the loop need not know which one it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dbrun.config_types import subclasses
from dbrun.models.configs import read_config

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor, nn

    from dbrun.diffusion.process import DiffusionProcess

Condition = Mapping[str, "Tensor"]
"""What one prompt tells the denoiser: named tensors without a batch axis; batched, with one."""

Randn = Callable[[str, Sequence[int]], "Tensor"]
"""(what for, shape of one row) -> standard normal noise [B, *shape], each row from a seed with its own address."""


class CleanBatch(NamedTuple):
    """Training pictures, drawn from what is stored of them. x0: [B, C, h, w].

    extra_conditions: what the denoiser is told of each picture beside its prompt, batched; most families have none.
    """

    x0: Tensor
    extra_conditions: Condition


def no_op() -> None:
    """What is called where nobody wants to know."""


@dataclass(frozen=True)
class Sampling:
    """Sampler settings that suit a base. steps: sampler steps; guidance: classifier-free guidance."""

    steps: int
    guidance: float


class Family:
    """One architecture: what is known of its bases without torch.

    A subclass lives in a file of its own and sets NAME; `load` gives the `Model` extra_modules it.
    """

    NAME: ClassVar[str]
    pipeline_classes: ClassVar[tuple[str, ...]]
    """The `_class_name`s of model_index.json that are of this family."""
    subfolders: ClassVar[tuple[str, ...]]
    """The sub-folders of a base that are read."""
    components: ClassVar[Mapping[str, str]]
    """Adaptable component -> its attribute on the pipeline; "denoiser" comes first."""
    token_components: ClassVar[tuple[str, ...]] = ()
    """What else can learn: new words. `module` gives their vectors, whose `vocabulary` is what they belong to."""
    component_docs: ClassVar[Mapping[str, str]]
    """Each of `components` and `token_components` -> what `adapt` says of it in a recipe; the editor's tooltip."""
    target_presets: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """Component -> preset of targets -> patterns of module names."""
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]]
    """Component -> how its layers' names begin on the module, and what stands there instead in a file that the
    pipeline's `load_lora_weights` reads. A component that this method passes over is left out."""
    kohya_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Component -> the same for a file as kohya's trainers write it, where the rest of a name has `_` for every `.`.
    A component that no reader of such files knows is left out."""
    default_sampling: ClassVar[Sampling]
    encoded_bytes_per_pixel: ClassVar[float] = 16.0
    """What `encode_images` gives takes at most so many bytes for a pixel of the picture."""
    encoded_bytes_per_prompt: ClassVar[int] = 2 * 2**20
    """What `encode_prompts` gives for a prompt takes at most so many bytes."""
    not_adaptable: ClassVar[Mapping[str, str]] = {}
    """Component that cannot be adapted -> why, said after the family's name."""
    class_labels: ClassVar[tuple[str, ...]] = ("none",)
    """What the denoiser may be told as class labels while it learns; the first is what the pipeline tells it."""
    class_labels_doc: ClassVar[str] = ""
    """What `train.class_labels` means for the family; left out where there is nothing to choose."""
    start_image_reason: ClassVar[str | None] = None
    """Why `generate` starts from a picture, as a clause such as "enlarges pictures"; None where words are enough."""

    def resolution_multiple(self, folder: Path) -> int:
        """What the resolution must be a multiple of, read from the configs in folder; without torch."""
        raise NotImplementedError

    def native_resolution(self, folder: Path) -> int:
        """The side of the pictures that a base was made for, in pixels, read from the configs in folder."""
        raise NotImplementedError

    def max_prompt_tokens(self, folder: Path) -> int:
        """Tokens that a prompt may have beside start and end marks; without torch."""
        raise NotImplementedError

    def start_image(self, picture: Image) -> Image:
        """What `generate` starts from to draw this square picture; asked only where `start_image_reason` is set."""
        raise NotImplementedError

    def normalize_prompt(self, prompt: str) -> str:
        """The prompt as the tokenizer is given it."""
        return prompt

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """The base from a folder in diffusers format: safetensors only, offline, frozen, in eval mode."""
        raise NotImplementedError

    def scheduler_config(self, folder: Path) -> dict[str, Any]:
        """The config of the base's scheduler, read from folder; without torch."""
        return read_config(folder / "scheduler" / "scheduler_config.json")

    def single_file_obstacle(self, folder: Path | None) -> str | None:
        """Why a base has no layout as a checkpoint of one file, as a clause after the format's name; None where it has.

        folder: the base's, of which configs are read without torch; None while it is unknown.
        """
        return f"which no other program reads for `base.type: {self.NAME}`"

    def write_tiny_base(self, folder: Path, *, prediction: str = "epsilon") -> None:
        """Write a tiny base of the real classes with seeded random weights, for tests."""
        raise NotImplementedError


class Model:
    """A base in memory: its family, its components, and what can be asked of them. It knows no adapter and no loss.

    pipeline: the diffusers pipeline whose components these are; folder: where it was loaded from; device, dtype: of
    all components.
    """

    def __init__(self, family: Family, pipeline: Any, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.family, self.pipeline, self.folder, self.device, self.dtype = family, pipeline, folder, device, dtype
        self.new_tokens: dict[str, nn.Module] = {}
        """What learns without being a component of the pipeline, by the name that recipes call it."""

    @property
    def components(self) -> Mapping[str, Any]:
        """The pipeline's components by their names in model_index.json; None for one that the base lacks."""
        found: Mapping[str, Any] = self.pipeline.components
        return found

    @property
    def scheduler(self) -> Any:
        """The base's scheduler."""
        return self.pipeline.scheduler

    @property
    def denoiser(self) -> nn.Module:
        """The network that learns to predict."""
        return self.module("denoiser")

    def module(self, component: str) -> nn.Module:
        """The module of an adaptable component, or the vectors of new words."""
        module: nn.Module = getattr(self.pipeline, self.family.components[component])
        return module

    def replace_components(self, components: Mapping[str, object]) -> None:
        """Put other components in the place of these, by their names in model_index.json."""
        for name, component in components.items():
            setattr(self.pipeline, name, component)

    def diffusion_process(self) -> DiffusionProcess:
        """The diffusion process that the base was trained with, from its scheduler's config."""
        raise NotImplementedError

    def with_scheduler_changes(self, changes: Mapping[str, object]) -> Self:
        """The same base with these changes to its scheduler's config; this one itself stays as it is."""
        if not changes:
            return self
        other, scheduler = copy(self), self.scheduler
        other.pipeline = copy(self.pipeline)
        other.pipeline.scheduler = type(scheduler).from_config({**scheduler.config, **changes})
        return other

    def sampling_scheduler(self) -> Any:
        """A fresh scheduler, as `generate` samples with."""
        return type(self.scheduler).from_config(self.scheduler.config)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, H, W] in [-1, 1] -> float32 [B, …]: all of a picture that `sample_x0` needs, stored once."""
        raise NotImplementedError

    def sample_x0(self, stored: Tensor, randn: Randn, class_labels: str) -> CleanBatch:
        """One draw of x0 and extra conditions from what `encode_images` gave, [B, …]; all chance in it is randn's.

        class_labels: one of the family's own.
        """
        raise NotImplementedError

    def encode_prompts(self, prompts: Sequence[str]) -> list[Condition]:
        """One condition a prompt; the same function serves cached and live text encoders (with gradients)."""
        raise NotImplementedError

    def collate_conditions(self, conditions: Sequence[Condition]) -> Condition:
        """A batch of conditions."""
        raise NotImplementedError

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The denoiser's prediction, of x_t's shape [B, C, h, w]; variance channels dropped. t: int64 [B].

        condition: of the prompts, with the extra conditions that `sample_x0` gave.
        """
        raise NotImplementedError

    def single_file_state_dict(self) -> Mapping[str, Tensor]:
        """All tensors of a base, by their names in such a checkpoint, float32."""
        raise NotImplementedError

    def generate(self, prompt: str, *, seed: int, steps: int, guidance: float, resolution: int,
                 start_image: Image | None = None, on_step: Callable[[], object] = no_op) -> Image:
        """One picture; equal arguments give an equal picture, whatever was drawn before.

        on_step: called after each sampler step; it may raise, to stop.
        start_image: what the family's `start_image` made of a picture; None where words are enough.
        """
        raise NotImplementedError


def families() -> Mapping[str, Family]:
    """Every family that has a file here, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.models", Family)}


def family_names() -> tuple[str, ...]:
    """The names of all families: what `base.type` may be."""
    return tuple(families())


def component_docs() -> Mapping[str, str]:
    """Every component that some family can adapt, with the explanation of the first family that has it."""
    found: dict[str, str] = {}
    for family in families().values():
        for name, text in family.component_docs.items():
            found.setdefault(name, text)
    return found


def class_label_names() -> tuple[str, ...]:
    """What `train.class_labels` may be; of each family what its pipeline samples with comes last."""
    names = [name for family in families().values() for name in (*family.class_labels[1:], family.class_labels[0])]
    return tuple(dict.fromkeys(names))


def class_labels_doc() -> str:
    """What `train.class_labels` means, family after family."""
    return " ".join(dict.fromkeys(f.class_labels_doc for f in families().values() if f.class_labels_doc))
