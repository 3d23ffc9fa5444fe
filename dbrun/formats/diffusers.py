"""The diffusers format: one `pytorch_lora_weights.safetensors` that `pipeline.load_lora_weights` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.adapters.lora import Lora
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

    from dbrun.adapters.import_adapter import ImportedAdapter

FILE = "pytorch_lora_weights.safetensors"
KOHYA_PREFIXES = ("lora_", "lycoris_")
"""Beginnings of names that are kohya's."""
TOKEN_PREFIX = "<"
"""The beginning of a name that is a new word's."""


class DiffusersFormat(Format):
    """LoRA weights of scale 1 under the family's prefixes; the file stands in the folder itself.

    alpha / rank is in B, so that every reader scales rightly: one that ignores metadata, as older diffusers does, and
    one whose LoraConfig lacks a field that ours has, takes alpha = rank and is right.
    """

    NAME: ClassVar[str] = "diffusers"
    SUMMARY: ClassVar[str] = "one file, LoRA only"
    POSITION: ClassVar[int] = 10
    FILE_DESCRIPTION: ClassVar[str | None] = f"a {FILE}"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """All but LoRA, and components that the pipeline's reader passes over."""
        if not adapter.supports_lora:
            return f"which carries LoRA only, and `adapt.{component}` is of type {adapter.NAME}"
        if component not in family.diffusers_prefixes:
            return f"whose `load_lora_weights` takes no {component} on `base.type: {family.NAME}`"
        return None

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A safetensors file, or a folder with one of the usual name."""
        file = place / FILE if place.is_dir() else place
        if file.suffix != ".safetensors" or not file.is_file():
            return None
        others = (*KOHYA_PREFIXES, TOKEN_PREFIX)
        return None if any(name.startswith(others) for name in read_header(file).tensors) else (file,)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """LoRA, where nothing else stands under the component's names."""
        file, names, prefix = files[0], read_header(files[0]).tensors, self.weight_prefix(family, component)
        own = [name for name in names if name.startswith(prefix)]
        if not own:
            parts = ", ".join(sorted({name.partition(".")[0] for name in names})) or "nothing"
            raise RecipeError(f"{file} holds no weights of `{prefix.rstrip('.')}`, the {component}; it holds {parts}",
                              fix=f"take `adapt.{component}.init` away, or name another file")
        if other := [name for name in sorted(own) if "lora" not in name]:
            raise RecipeError(f"{file} holds other weights than LoRA's, such as {other[0]}",
                              fix=f"name {self.FILE_DESCRIPTION}")
        return Lora.NAME

    def usage(self, family: Family, base: str) -> str | None:
        """`load_lora_weights`."""
        pipeline = family.pipeline_classes[0]
        return (f"In diffusers:\n\n```python\nfrom diffusers import {pipeline}\n\n"
                f"pipeline = {pipeline}.from_pretrained({base})\n"
                f'pipeline.load_lora_weights("path/to/this/folder", weight_name="{FILE}")\n```')

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """The folder itself, for all components."""
        return (FILE,)

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """As `load_lora_weights` puts it onto the pipeline's part."""
        from dbrun.formats.peft_import import import_through_peft

        return import_through_peft(self, folder, self.weight_prefix(model.family, component), model, component)

    def weight_prefix(self, family: Family, component: str) -> str:
        """The pipeline's part."""
        return f"{family.components[component]}."

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """The adapter's, as LoRA."""
        return attached.adapter.to_lora(attached.state)

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """One file for all components."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for component, attached in adapters.items():
            begins, written = family.diffusers_prefixes[component]
            tensors |= {written + _full_parameter_name(name.removeprefix(begins)): tensor.contiguous()
                        for name, tensor in self.expected_weights(attached).items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        return (folder / FILE,)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """`load_lora_weights`."""
        model.pipeline.load_lora_weights(str(folder), weight_name=FILE)


def _full_parameter_name(name: str) -> str:
    """DoRA's magnitude by its parameter's whole name: transformers passes over it otherwise, peft takes both."""
    return f"{name}.weight" if name.endswith(".lora_magnitude_vector") else name
