"""The PEFT format: a folder for each component that `PeftModel.from_pretrained` reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor

    from dbrun.adapters.import_adapter import ImportedAdapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
ALWAYS_WRITTEN = ("peft_type", "r", "lora_alpha", "alpha", "target_modules", "base_model_name_or_path")
"""Settings that are written even where they are peft's defaults, beside the adapter's own `always_in_config`."""


class PeftFormat(Format):
    """`peft/<component>/adapter_config.json` and `adapter_model.safetensors`."""

    NAME: ClassVar[str] = "peft"
    SUMMARY: ClassVar[str] = "a folder per component"
    POSITION: ClassVar[int] = 20
    FILE_DESCRIPTION: ClassVar[str | None] = f"a PEFT folder ({CONFIG} and {WEIGHTS})"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Only what peft does not put on."""
        if not adapter.uses_peft:
            return f"which carries adapters, and `adapt.{component}` is of type {adapter.NAME}"
        return None

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """A folder with a config in it."""
        return (place / CONFIG, place / WEIGHTS) if (place / CONFIG).is_file() else None

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """One: a config does not say which component it is of, but its folder's name does; else the first."""
        folder = files[0].parent.name
        return (folder,) if folder in family.components else tuple(family.components)[:1]

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """The config's `peft_type`; whichever component it was made for, it fits where its layers are."""
        config, weights = files
        try:
            found = str(json.loads(config.read_bytes())["peft_type"]).lower()
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{config} names no `peft_type`, so it is no adapter's config",
                              fix=f"name {self.FILE_DESCRIPTION}") from error
        if not weights.is_file():
            raise RecipeError(f"{config.parent} holds no {WEIGHTS}; pickled weights are never read",
                              fix="save the adapter again with `save_pretrained(…, safe_serialization=True)`")
        read_header(weights)
        return found

    def usage(self, family: Family, base: str) -> str | None:
        """`PeftModel.from_pretrained`."""
        part = family.components["denoiser"]
        return (f"In PEFT, after the pipeline is loaded; `{self.NAME}/` has a folder for each component:\n\n"
                f"```python\nfrom peft import PeftModel\n\n"
                f'pipeline.{part} = PeftModel.from_pretrained(pipeline.{part}, "{self.NAME}/denoiser")\n```')

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """A folder of the component's name."""
        return tuple(f"{self.NAME}/{component}/{name}" for name in (CONFIG, WEIGHTS))

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """As `PeftModel` holds it."""
        from dbrun.formats.peft_import import import_through_peft

        return import_through_peft(self, folder, "", model, component)

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """The adapter's own, on an untouched base."""
        return attached.adapter.to_peft(attached.modules, attached.state)[1]

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """One folder for each component."""
        from safetensors.torch import save_file

        written = []
        for component, attached in adapters.items():
            home = folder / "peft" / component
            home.mkdir(parents=True)
            config, state = attached.adapter.to_peft(attached.modules, attached.state)
            always = (*ALWAYS_WRITTEN, *attached.adapter.always_in_config)
            text = json.dumps(config_as_json(config, always), indent=2, sort_keys=True) + "\n"
            (home / CONFIG).write_text(text, encoding="utf-8")
            tensors = {PREFIX + name: tensor for name, tensor in state.items()}
            save_file(tensors, home / WEIGHTS, metadata={"format": "pt"})
            written.append(home / WEIGHTS)
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """`PeftModel.from_pretrained` on each component's module."""
        from peft import PeftModel

        with warnings.catch_warnings():
            # what peft asks of transformers is no news to a user
            warnings.simplefilter("ignore", FutureWarning)
            for component in components:
                PeftModel.from_pretrained(model.module(component), folder / "peft" / component,
                                          torch_device=str(model.device))


def config_as_json(config: PeftConfig, always: tuple[str, ...]) -> dict[str, object]:
    """The config as JSON data without what is peft's default, so that an older peft knows every word in it.

    always: settings that stay even where they are the default.
    No path, no exact version, sets in order: equal adapters give equal bytes on every machine.
    """
    usual = type(config)().to_dict()
    own = {**config.to_dict(), "inference_mode": True, "base_model_name_or_path": None}
    kept = {key: value for key, value in own.items()
            if key != "peft_version" and (key in always or value != usual.get(key))}
    return {key: sorted(value) if isinstance(value, (set, list)) else getattr(value, "value", value)
            for key, value in kept.items()}
