"""Families and bases that are a diffusers pipeline: opening one, its components, and a pipeline to sample with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.errors import RecipeError, is_out_of_memory
from dbrun.models.base import Condition, Family, Model
from dbrun.models.configs import read_config, silence_libraries
from dbrun.models.ldm_layouts import CHECKPOINT

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class PipelineFamily(Family):
    """Family whose bases are opened by one of diffusers' pipelines."""

    model: ClassVar[type[PipelineModel]]
    """Class of its bases in memory."""
    component_docs: ClassVar[Mapping[str, str]] = {
        "denoiser": "The adapter of the denoiser (a UNet or transformer); left out, the denoiser is not trained."}
    left_out: ClassVar[tuple[str, ...]] = ()
    """Components of the pipeline that are never loaded."""
    pipeline_settings: ClassVar[Mapping[str, object]] = {}
    """Further arguments with which the pipeline is opened."""

    def load(self, folder: Path, *, device: torch.device, dtype: torch.dtype,
             variant: str | None = None) -> Model:
        """Open the base without `left_out`; each component is loaded in dtype on device. Raises RecipeError."""
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
                **self.pipeline_settings, **dict.fromkeys(absent))
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


def cpu_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One generator for each picture of a block, on the CPU: the same noise on every device, whatever the block."""
    import torch

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


class PipelineModel(Model):
    """Base in memory that is a diffusers pipeline."""

    def sampling_pipeline(self, *names: str) -> Any:
        """New diffusers pipeline with these components and a scheduler of its own, to sample one block of pictures."""
        pipeline = self.pipeline_with(*names)
        # the base's own scheduler would carry its state from one sampling to the next
        pipeline.scheduler = self.sampling_scheduler()
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def collate_conditions(self, conditions: Sequence[Condition]) -> Condition:
        """Stack each tensor of the conditions, such as `hidden` [L, D] to [B, L, D].

        Where the lengths L of a family's prompts differ, zeros fill up the shorter ones, and `mask`, bool [B, L], is
        True for what was there.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        batch: dict[str, Tensor] = {}
        for name in conditions[0]:
            tensors = [condition[name] for condition in conditions]
            lengths = [len(tensor) for tensor in tensors]
            if len(set(lengths)) == 1:
                batch[name] = torch.stack(tensors)
                continue
            batch[name] = pad_sequence(tensors, batch_first=True)
            places = torch.arange(max(lengths), device=tensors[0].device)
            batch["mask"] = places < torch.tensor(lengths, device=places.device)[:, None]
        return batch
