"""The merged format: the whole pipeline with what was learnt in its weights, as `from_pretrained` reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from dbrun.adapters.adapter_io import Attached
from dbrun.formats.component import ONE_FILE, Component, without_places
from dbrun.formats.merge_weights import merge
from dbrun.models.base import Family, Loaded


class Merged(Component):
    """`merged/`: as large as the base. Its scheduler is the one that the trained denoiser is to be sampled with."""

    NAME: ClassVar[str] = "merged"
    CARRIES: ClassVar[str] = "a whole pipeline"
    PARTS: ClassVar[bool] = False

    def usage(self, family: Family, base: str) -> str | None:
        """`from_pretrained`, without the base."""
        return (f"The whole pipeline is in `{self.NAME}/`:\n\n```python\nfrom diffusers import DiffusionPipeline\n\n"
                f'pipeline = DiffusionPipeline.from_pretrained("{self.NAME}")\n```')

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached],
              bare: Callable[[], Loaded]) -> tuple[Path, ...]:
        """Every part of the pipeline, in 32 bits."""
        loaded = with_all(family, adapters, bare())
        home = folder / self.NAME
        loaded.pipeline.save_pretrained(home, safe_serialization=True, max_shard_size=ONE_FILE)
        for path in home.rglob("*.json"):
            without_places(path)
        return tuple(sorted(home.rglob("*.safetensors")))

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """`from_pretrained` of the pipeline's own class."""
        taken = family.load(folder / self.NAME, device=loaded.device, dtype=loaded.dtype)
        put(taken.pipeline.components, loaded)


def with_all(family: Family, adapters: Mapping[str, Attached], loaded: Loaded) -> Loaded:
    """The base with all of the adapters in its weights."""
    for component, attached in adapters.items():
        attached.onto(family.module(loaded, component))
        merge(family.module(loaded, component))
    return loaded


def put(parts: Mapping[str, object], loaded: Loaded) -> None:
    """Put another pipeline's parts in the place of a base's."""
    for name, part in parts.items():
        setattr(loaded.pipeline, name, part)
