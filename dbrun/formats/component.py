"""The component format: the whole component with the adapter merged, for `from_pretrained` of its own class."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.full import Full
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.merge_weights import merge_adapter
from dbrun.formats.older_transformers import write_older_names
from dbrun.input_file import file_exists, read_json
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

OMITTED_SETTINGS = ("_name_or_path", "name_or_path", "_diffusers_version", "transformers_version")
"""Config settings that are not written: paths, and exact versions; the provenance records the versions that count."""
MAX_SHARD_SIZE = "1000GB"
"""Shard size above every model's, so that each component is one file."""
CONFIG, WEIGHTS = "config.json", "weights.safetensors"


class ComponentFormat(Format):
    """`component/<unet, text_encoder …>/`: a config and all weights, as large as the component; adapters are merged."""

    NAME: ClassVar[str] = "component"
    SUMMARY: ClassVar[str] = "it itself, as large as it is"
    SPEC_SUFFIX: ClassVar[str | None] = None
    LOADS_IN: ClassVar[str] = "diffusers and transformers (`from_pretrained`)"
    POSITION: ClassVar[int] = 40
    LARGE: ClassVar[bool] = True
    ADDS_TO_WEIGHTS: ClassVar[bool] = True

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """`from_pretrained` of each component's own class."""
        lines = []
        for component, part in family.components.items():
            if (recipe.get("adapt") or {}).get(component):
                lines.append(f'pipeline.{part} = type(pipeline.{part}).from_pretrained('
                             f'f"{{folder}}/{self.NAME}/{part}", torch_dtype=dtype).to(device)')
        return tuple(lines)

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """Config and weights in a folder, unless the folder belongs to a whole pipeline."""
        if self.HOLDS_ALL:
            return None
        # A pipeline's own unet/ looks the same, and is no adapter.
        in_pipeline = file_exists(place.parent / "model_index.json")
        config, weights = place / CONFIG, sorted(place.glob("*.safetensors"))
        if in_pipeline or not file_exists(config) or len(weights) != 1:
            return None
        return (config, weights[0])

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The component whose name in the pipeline, such as `unet`, is the folder's name."""
        return tuple(component for component, part in family.components.items() if part == files[0].parent.name)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """`full`. Raises RecipeError if the file is truncated."""
        read_header(files[1])
        return Full.NAME

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Config and weights in a folder named after the component, where `changed_weights` looks."""
        return (f"{self.NAME}/{component}/{CONFIG}", f"{self.NAME}/{component}/{WEIGHTS}")

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Yield every weight [out, in …] that differs from the base's. Raises RecipeError for another architecture."""
        import torch
        from safetensors import safe_open

        for component in components:
            own = dict(model.module(component).named_parameters())
            older_prefix = model.family.older_prefixes.get(model.family.components[component], "")
            with safe_open(folder / self.NAME / component / WEIGHTS, framework="pt") as file:
                names = {}
                for stored in file.keys():  # noqa: SIM118
                    name = stored
                    # Only where the module has no such name: files of both namings exist.
                    if name not in own:
                        name = name.removeprefix(older_prefix)
                    names[name] = stored
                # By slices, which read the header only: a component is gigabytes.
                shapes = {name: tuple(file.get_slice(stored).get_shape()) for name, stored in names.items()}
                if shapes != {name: tuple(parameter.shape) for name, parameter in own.items()}:
                    raise RecipeError(f"it holds another {component} than the base has",
                                      fix="name one that was trained on this base")
                for name, stored in names.items():
                    new = file.get_tensor(stored)
                    # Compared in the base's dtype: a base in 16 bits differs from its float32 file by rounding alone.
                    if not torch.equal(new.to(own[name]), own[name]):
                        yield component, name, new

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Weights [out, in …] trained without an adapter, in their parameters' shapes; empty for a merged adapter."""
        if attached.adapter.uses_peft:
            return {}
        return attached.state

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The component's weights of these names, in their parameters' shapes [out, in …]."""
        return {name: tensor for name, tensor in module.state_dict().items() if name in written}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write one folder for each component, in float32; returns their safetensors files."""
        model, written = bare(), []
        for component, attached in adapters.items():
            module = model.module(component)
            attached.attach_to(module)
            merge_adapter(module)
            home = _component_folder(folder, family, component)
            module.save_pretrained(home, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)  # type: ignore[operator]
            strip_config_paths(home / "config.json")
            write_older_names(home, family, family.components[component])
            written += sorted(home.glob("*.safetensors"))
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Replace the base's components, read with `from_pretrained` of their own classes."""
        for component in components:
            kind: Any = type(model.module(component))
            name = model.family.components[component]
            # freed first: two of a large component may not fit
            model.release(name)
            module = kind.from_pretrained(_component_folder(folder, model.family, component))
            device = model.weights.load_device(name)
            model.replace_components({name: module.to(device, model.dtype).requires_grad_(False).eval()})


def _component_folder(folder: Path, family: Family, component: str) -> Path:
    return folder / "component" / family.components[component]


def strip_config_paths(path: Path) -> None:
    """Rewrite a config file without `OMITTED_SETTINGS`, so that equal models give equal bytes on every machine."""
    config = read_json(path)
    kept = {key: value for key, value in config.items() if key not in OMITTED_SETTINGS}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
