"""The component format: the component itself, with what it learnt in its weights, as `from_pretrained` reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.full import Full
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.merge_weights import merge_adapter
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

OMITTED_SETTINGS = ("_name_or_path", "name_or_path", "_diffusers_version", "transformers_version")
"""Settings that are left out: places, and versions to the last digit; the provenance tells what counts."""
MAX_SHARD_SIZE = "1000GB"
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
TEXT_MODEL_PREFIX = "text_model."
"""Before the names of a text encoder's weights in files, which transformers 5.6 dropped from the module's."""


class ComponentFormat(Format):
    """`component/<unet, text_encoder …>/`: a config and weights, as large as the component; an adapter is merged."""

    NAME: ClassVar[str] = "component"
    SUMMARY: ClassVar[str] = "it itself, as large as it is"
    POSITION: ClassVar[int] = 40
    LARGE: ClassVar[bool] = True
    STANDALONE: ClassVar[bool] = True
    """Whether a part stands alone, so that it can be put into a base."""

    def usage(self, family: Family, base: str) -> str | None:
        """`from_pretrained` of the part's own class."""
        part = family.components["denoiser"]
        return (f"`{self.NAME}/` holds the parts themselves, each for `from_pretrained` of its own class, such as "
                f"`pipeline.{part}.from_pretrained(\"{self.NAME}/{part}\")`.")

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A folder with a config and weights that is no part of a whole pipeline."""
        files = (place / CONFIG, *sorted(place.glob("*.safetensors"))) if self.STANDALONE else ()
        whole = (place.parent / "model_index.json").is_file()
        return files if len(files) == 2 and files[0].is_file() and not whole else None

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The component whose part has the folder's name."""
        return tuple(component for component, part in family.components.items() if part == files[0].parent.name)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """The component itself, where its weights are whole."""
        read_header(files[1])
        return Full.NAME

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Where `changed_weights` looks."""
        return (f"{self.NAME}/{component}/{CONFIG}", f"{self.NAME}/{component}/{WEIGHTS}")

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Every weight that is not the base's. Raises RecipeError where they are those of another architecture."""
        import torch
        from safetensors import safe_open

        for component in components:
            own = dict(model.module(component).named_parameters())
            with safe_open(folder / self.NAME / component / WEIGHTS, framework="pt") as file:
                names = {name if name in own else name.removeprefix(TEXT_MODEL_PREFIX): name
                         for name in file.keys()}  # noqa: SIM118
                shapes = {name: tuple(file.get_slice(stored).get_shape()) for name, stored in names.items()}
                if shapes != {name: tuple(parameter.shape) for name, parameter in own.items()}:
                    raise RecipeError(f"it holds another {component} than the base has",
                                      fix="name one that was trained on this base")
                for name, stored in names.items():
                    new = file.get_tensor(stored)
                    if not torch.equal(new.to(own[name]), own[name]):
                        yield component, name, new

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Those that learnt in place; what is merged has no names of its own."""
        return {} if attached.adapter.uses_peft else attached.state

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The component's weights of these names."""
        return {name: tensor for name, tensor in module.state_dict().items() if name in written}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """One folder for each component, in 32 bits."""
        model, written = bare(), []
        for component, attached in adapters.items():
            module = model.module(component)
            attached.attach_to(module)
            merge_adapter(module)
            home = _component_folder(folder, family, component)
            module.save_pretrained(home, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)  # type: ignore[operator]
            strip_config_paths(home / "config.json")
            written += sorted(home.glob("*.safetensors"))
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """`from_pretrained` of the component's own class."""
        for component in components:
            kind = type(model.module(component))
            module = kind.from_pretrained(_component_folder(folder, model.family, component))  # type: ignore[attr-defined]
            setattr(model.pipeline, model.family.components[component], module.to(model.device).eval())


def _component_folder(folder: Path, family: Family, component: str) -> Path:
    return folder / "component" / family.components[component]


def strip_config_paths(path: Path) -> None:
    """Rewrite a config without what only says where it was, and by which version it was written."""
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in OMITTED_SETTINGS}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
