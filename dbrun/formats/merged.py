"""The merged format: the whole pipeline with what was learnt in its weights, as `from_pretrained` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.component import MAX_SHARD_SIZE, ComponentFormat, strip_config_paths
from dbrun.formats.merge_weights import merge_adapter
from dbrun.models.base import Family, Model


class MergedFormat(ComponentFormat):
    """`merged/`: as large as the base. Its scheduler is the one that the trained denoiser is to be sampled with."""

    NAME: ClassVar[str] = "merged"
    SUMMARY: ClassVar[str] = "the whole pipeline"
    POSITION: ClassVar[int] = 50
    CONTENT: ClassVar[str] = "a whole pipeline"
    STANDALONE: ClassVar[bool] = False

    def usage(self, family: Family, base: str) -> str | None:
        """`from_pretrained`, without the base."""
        return (f"The whole pipeline is in `{self.NAME}/`:\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
                f'pipeline = DiffusionPipeline.from_pretrained("{self.NAME}")\n```')

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Every part of the pipeline, in 32 bits."""
        model = merge_all(family, adapters, bare())
        home = folder / self.NAME
        model.pipeline.save_pretrained(home, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        for path in home.rglob("*.json"):
            strip_config_paths(path)
        return tuple(sorted(home.rglob("*.safetensors")))

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """`from_pretrained` of the pipeline's own class."""
        taken = model.family.load(folder / self.NAME, device=model.device, dtype=model.dtype)
        replace_components(taken.pipeline.components, model)


def merge_all(family: Family, adapters: Mapping[str, ComponentAdapter], model: Model) -> Model:
    """The base with all of the adapters in its weights."""
    for component, attached in adapters.items():
        attached.attach_to(model.module(component))
        merge_adapter(model.module(component))
    return model


def replace_components(parts: Mapping[str, object], model: Model) -> None:
    """Put another pipeline's parts in the place of a base's."""
    for name, part in parts.items():
        setattr(model.pipeline, name, part)
