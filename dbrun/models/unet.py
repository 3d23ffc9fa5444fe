"""Shared base classes of the families whose denoiser is diffusers' UNet2DConditionModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError, is_out_of_memory
from dbrun.models.base import Condition, Family, Model
from dbrun.models.configs import downsampling_factor, read_config, silence_libraries
from dbrun.models.ldm_layouts import CHECKPOINT
from dbrun.models.scheduling import VARIANCE_PRESERVING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dbrun.diffusion.process import DiffusionProcess

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TIME_EMBEDDING = ("time_emb_proj", "time_embedding.linear_1", "time_embedding.linear_2")
RESNETS = ("resnets.*.conv1", "resnets.*.conv2", "conv_shortcut")


class UNetFamily(Family):
    """Family with a UNet that attends to one sequence of text states."""

    model: ClassVar[type[UNetModel]]
    """Class of its bases in memory."""
    scheduler_classes: ClassVar[tuple[str, ...]] = VARIANCE_PRESERVING
    component_docs: ClassVar[Mapping[str, str]] = {
        "denoiser": "The adapter of the denoiser (the UNet); left out, the denoiser is not trained."}
    diffusers_prefixes: ClassVar[Mapping[str, tuple[str, str]]] = {"denoiser": ("", "unet.")}

    left_out: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor")
    """Components of the pipeline that are never loaded."""

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """Open the base without a safety checker; each component is loaded in dtype on device. Raises RecipeError."""
        self.check_configs(folder)
        absent = (*self.left_out, *self.weight_components)
        pipeline = self._read_pipeline(folder, absent, dtype=dtype, variant=variant)
        return self.model(self, pipeline, folder, device, dtype, variant)

    def load_component(self, folder: Path, name: str, *, device: torch.device, dtype: torch.dtype,
                       variant: str | None) -> nn.Module:
        """Load one component's weights through the pipeline's class; errors as in the base class."""
        file = folder / CHECKPOINT
        # a component's entry is its library and class; the other entries are settings of the pipeline
        index = read_config(folder / "model_index.json")
        absent = [other for other, entry in index.items() if isinstance(entry, list) and other != name]
        if file.exists():
            pipeline = self._read_checkpoint(folder, absent, dtype=dtype)
        else:
            pipeline = self._read_pipeline(folder, absent, dtype=dtype, variant=variant)
        module: nn.Module = getattr(pipeline, name)
        # the reader of checkpoints leaves a layer empty that the file lacks
        empty = [layer for layer, parameter in module.named_parameters() if parameter.is_meta]
        if empty:
            raise RecipeError(f"{file.resolve()} lacks {len(empty)} weights of the {name}, such as {empty[0]}",
                              fix="name a whole checkpoint, or other configs in `base.like`")
        return module.to(device).requires_grad_(False).eval()

    def empty_component(self, folder: Path, name: str) -> nn.Module:
        """One component on the meta device, made by its own class from its config."""
        silence_libraries()
        import torch

        library, class_name = read_config(folder / "model_index.json")[name]
        component_class: Any = getattr(import_module(library), class_name)
        with torch.device("meta"):
            # diffusers' classes read their own config, those of transformers have a class for it
            if hasattr(component_class, "load_config"):
                module: nn.Module = component_class.from_config(component_class.load_config(folder / name))
            else:
                config = component_class.config_class.from_dict(read_config(folder / name / "config.json"))
                module = component_class(config)
        return module.requires_grad_(False).eval()

    def _read_pipeline(self, folder: Path, absent: Sequence[str], *, dtype: torch.dtype, variant: str | None) -> Any:
        """The diffusers pipeline in folder without the components named by absent. Raises RecipeError."""
        silence_libraries()
        import diffusers

        pipeline_class = getattr(diffusers, self.pipeline_classes[0])
        try:
            # safetensors only: a pickle can run code when it is loaded
            pipeline = pipeline_class.from_pretrained(
                str(folder), dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True,
                requires_safety_checker=False, **dict.fromkeys(absent))
        # the libraries answer a wrong config with almost any exception: TypeError, KeyError, AttributeError …
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise RecipeError(f"{folder} cannot be loaded as a base of type {self.NAME}: {error}",
                              fix="check `base.path` and `base.variant`; only safetensors files are read") from error
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _read_checkpoint(self, folder: Path, absent: Sequence[str], *, dtype: torch.dtype) -> Any:
        """The pipeline in a checkpoint of one file, as `_read_pipeline`; absent components are not read."""
        silence_libraries()
        import diffusers
        from diffusers.loaders.single_file_utils import SingleFileComponentError

        pipeline_class = getattr(diffusers, self.pipeline_classes[0])
        file = (folder / CHECKPOINT).resolve()
        try:
            return pipeline_class.from_single_file(str(file), config=str(folder), local_files_only=True,
                                                   torch_dtype=dtype, **dict.fromkeys(absent))
        except (OSError, ValueError, KeyError, RuntimeError, SingleFileComponentError) as error:
            raise RecipeError(f"{file} cannot be loaded as a base of type {self.NAME}: {error}",
                              fix="name a whole checkpoint, or other configs in `base.like`") from error

    def check_configs(self, folder: Path) -> None:
        """Raise RecipeError also for a UNet that was distilled to take the guidance scale as an input."""
        super().check_configs(folder)
        file = folder / "unet" / "config.json"
        if read_config(file).get("time_cond_proj_dim") is not None:
            # samplers give it the scale, training would not (Meng et al. 2022, arXiv:2210.03142)
            raise RecipeError(f"{file} of the base: found `time_cond_proj_dim`, the mark of a UNet that was distilled "
                              "to take the guidance scale", fix="choose the base that it was distilled from")

    def native_resolution(self, folder: Path) -> int:
        """The UNet's `sample_size` in pixels: times the VAE's factor where the UNet works on latents."""
        # a config without `sample_size` is read as 64, the side of SD 1.x and of IF stage I
        side = read_config(folder / "unet" / "config.json").get("sample_size") or 64
        # diffusers also takes [height, width]
        if isinstance(side, list):
            side = max(side)
        if "vae" not in self.subfolders:
            return int(side)
        return int(side) * downsampling_factor(folder / "vae")


class UNetModel(Model):
    """Base in memory whose denoiser is a UNet2DConditionModel."""

    def diffusion_process(self) -> DiffusionProcess:
        """Process with the betas and the prediction type of the base's scheduler."""
        from dbrun.diffusion.process import DiffusionProcess

        return DiffusionProcess.from_config(self.scheduler.config)

    def sampling_pipeline(self, *names: str) -> Any:
        """New diffusers pipeline with these components and a scheduler of its own, to sample one picture."""
        pipeline = self.pipeline_with(*names)
        # the base's own scheduler would carry its state from one sampling to the next
        pipeline.scheduler = self.sampling_scheduler()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def collate_conditions(self, conditions: Sequence[Condition]) -> Condition:
        """Stack each tensor of the conditions, such as `hidden` [L, D] to [B, L, D]."""
        import torch

        batch: dict[str, Tensor] = {}
        for name in conditions[0]:
            batch[name] = torch.stack([condition[name] for condition in conditions])
        return batch

    def predict(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Prediction of the UNet for x_t [B, C, h, w] and t [B], of x_t's shape. condition: at least `hidden`."""
        device, dtype = self.device, self.dtype
        sample, labels = self.denoiser_input(x_t, t, condition)
        if labels is not None:
            labels = labels.to(device)
        hidden = condition["hidden"].to(device, dtype)
        output: Tensor = self.denoiser(sample.to(device, dtype), t.to(device), encoder_hidden_states=hidden,
                                       class_labels=labels,
                                       added_cond_kwargs=self.added_conditions(x_t, condition)).sample
        return drop_variance_channels(output, x_t)

    def added_conditions(self, x_t: Tensor, condition: Condition) -> Mapping[str, Tensor] | None:
        """Further inputs of the UNet for x_t [B, C, h, w], on the device; None for a UNet without any."""
        return None

    def denoiser_input(self, x_t: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """UNet's input [B, C', h, w] for x_t [B, C, h, w], and its class labels [B]; None for a UNet without labels."""
        return x_t, None


def drop_variance_channels(output: Tensor, x_t: Tensor) -> Tensor:
    """Prediction [B, C, h, w] in a denoiser's output [B, C or 2C, h, w]; x_t: [B, C, h, w]."""
    # of 2C channels the second half interpolates the variance (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 15);
    # no loss here trains it
    if output.shape[1] == 2 * x_t.shape[1]:
        return output.chunk(2, dim=1)[0]
    return output
