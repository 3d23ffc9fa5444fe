"""The merged format: the whole pipeline with what was learnt in its weights, as `from_pretrained` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.component import MAX_SHARD_SIZE, ComponentFormat, strip_config_paths
from dbrun.formats.merge_weights import merge_adapter
from dbrun.models.base import Family, Loaded


class MergedFormat(ComponentFormat):
    """`merged/`: as large as the base. Its scheduler is the one that the trained denoiser is to be sampled with."""

    NAME: ClassVar[str] = "merged"
    CONTENT: ClassVar[str] = "a whole pipeline"
    STANDALONE: ClassVar[bool] = False

    def usage(self, family: Family, base: str) -> str | None:
        """`from_pretrained`, without the base."""
        return (f"The whole pipeline is in `{self.NAME}/`:\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
                f'pipeline = DiffusionPipeline.from_pretrained("{self.NAME}")\n```')

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Loaded]) -> tuple[Path, ...]:
        """Every part of the pipeline, in 32 bits."""
        loaded = merge_all(family, adapters, bare())
        home = folder / self.NAME
        loaded.pipeline.save_pretrained(home, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        for path in home.rglob("*.json"):
            strip_config_paths(path)
        return tuple(sorted(home.rglob("*.safetensors")))

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """`from_pretrained` of the pipeline's own class."""
        taken = family.load(folder / self.NAME, device=loaded.device, dtype=loaded.dtype)
        replace_components(taken.pipeline.components, loaded)


def merge_all(family: Family, adapters: Mapping[str, ComponentAdapter], loaded: Loaded) -> Loaded:
    """The base with all of the adapters in its weights."""
    for component, attached in adapters.items():
        attached.attach_to(family.module(loaded, component))
        merge_adapter(family.module(loaded, component))
    return loaded


def replace_components(parts: Mapping[str, object], loaded: Loaded) -> None:
    """Put another pipeline's parts in the place of a base's."""
    for name, part in parts.items():
        setattr(loaded.pipeline, name, part)
