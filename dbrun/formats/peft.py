"""The PEFT format: one folder per component for `PeftModel.from_pretrained`."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.older_transformers import with_older_names
from dbrun.input_file import file_exists, read_json
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor

    from dbrun.adapters.import_adapter import ImportedAdapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix of weight names in PEFT's files: the attributes through which PeftModel holds the base."""
ALWAYS_WRITTEN = ("peft_type", "r", "lora_alpha", "alpha", "target_modules", "base_model_name_or_path")
"""Settings that are written even at peft's default, in addition to the adapter's own `always_in_config`."""


class PeftFormat(Format):
    """`peft/<component>/adapter_config.json` and `adapter_model.safetensors`."""

    NAME: ClassVar[str] = "peft"
    SUMMARY: ClassVar[str] = "a folder per component"
    LOADED_BY: ClassVar[str] = "PEFT"
    LOADS_IN: ClassVar[str] = "PEFT (`PeftModel.from_pretrained`)"
    POSITION: ClassVar[int] = 20
    FILE_DESCRIPTION: ClassVar[str | None] = f"a PEFT folder ({CONFIG} and {WEIGHTS})"

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Clause for types that peft does not attach."""
        if not adapter.uses_peft:
            return f"which carries adapters, and `adapt.{component}` is of type {adapter.NAME}"
        return None

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """Config and weights in a folder that contains a config."""
        # The weights need not exist: `adapter_type` reports a folder with pickled weights by name.
        if not file_exists(place / CONFIG):
            return None
        return (place / CONFIG, place / WEIGHTS)

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The component that the folder is named after; otherwise the first, the denoiser."""
        # A config does not record its component.
        folder = files[0].parent.name
        if folder in family.components:
            return (folder,)
        return tuple(family.components)[:1]

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """The config's `peft_type` in lower case. Raises RecipeError without it, or without readable weights."""
        config, weights = files
        try:
            settings = read_json(config)
            peft_type = str(settings["peft_type"]).lower()
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{config} names no `peft_type`, so it is not an adapter's config",
                              fix=f"name {self.FILE_DESCRIPTION}") from error
        if not file_exists(weights):
            raise RecipeError(f"{config.parent} holds no {WEIGHTS}; pickled weights are never read",
                              fix="save the adapter again with `save_pretrained(…, safe_serialization=True)`")
        # Raises RecipeError for a truncated file.
        read_header(weights)
        return peft_type

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """`PeftModel.from_pretrained` for each component that has an adapter."""
        lines = ["from peft import PeftModel"]
        for component, part in family.components.items():
            if (recipe.get("adapt") or {}).get(component):
                lines.append(f'pipeline.{part} = PeftModel.from_pretrained(pipeline.{part}, '
                             f'f"{{folder}}/{self.NAME}/{component}")')
        return tuple(lines)

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Config and weights in a folder named after the component."""
        return tuple(f"{self.NAME}/{component}/{name}" for name in (CONFIG, WEIGHTS))

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """Read the adapter through `PeftModel`; errors as in the base class."""
        from dbrun.formats.peft_import import import_through_peft

        return import_through_peft(self, folder, "", model, component)

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Weights, such as A [rank, in], that plain peft loads onto an untouched base: names of `Learnable.to_peft`."""
        _, state = attached.adapter.to_peft(attached.modules, attached.state)
        return state

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write one folder per component; returns the weight files."""
        from safetensors.torch import save_file

        written = []
        for component, attached in adapters.items():
            home = folder / "peft" / component
            home.mkdir(parents=True)
            config, state = attached.adapter.to_peft(attached.modules, attached.state)
            always = (*ALWAYS_WRITTEN, *attached.adapter.always_in_config)
            text = json.dumps(config_as_json(config, always), indent=2, sort_keys=True) + "\n"
            (home / CONFIG).write_text(text, encoding="utf-8")
            named = with_older_names(state, family, component)
            tensors = {PREFIX + name: tensor for name, tensor in named.items()}
            save_file(tensors, home / WEIGHTS, metadata={"format": "pt"})
            written.append(home / WEIGHTS)
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Load each folder with `PeftModel.from_pretrained` onto its component."""
        from peft import PeftModel

        with warnings.catch_warnings():
            # A deprecation between peft and transformers, which a user cannot act on.
            warnings.simplefilter("ignore", FutureWarning)
            for component in components:
                home = folder / "peft" / component
                # peft changes the module in place, so its PeftModel is not kept.
                PeftModel.from_pretrained(model.module(component), home, torch_device=str(model.device),
                                          key_mapping=_name_changes(home / WEIGHTS, model.family, component))


def _name_changes(weights: Path, family: Family, component: str) -> dict[str, str] | None:
    """peft's `key_mapping` for a file with the names of transformers 4 alone; None where it has the module's own."""
    prefix = family.older_prefixes.get(family.components[component])
    if prefix is None or not all(name.startswith(PREFIX + prefix) for name in read_header(weights).tensors):
        return None
    return {f"^{re.escape(prefix)}": ""}


def config_as_json(config: PeftConfig, always: tuple[str, ...]) -> dict[str, object]:
    """The config as JSON data without settings at peft's default; equal adapters give equal bytes on every machine.

    always: settings that are written even at their default.
    """
    defaults = type(config)().to_dict()
    settings = {**config.to_dict(), "inference_mode": True, "base_model_name_or_path": None}
    document: dict[str, object] = {}
    for key, value in settings.items():
        # Without defaults, because an older peft raises for a setting that it does not know.
        if key == "peft_version" or (key not in always and value == defaults.get(key)):
            continue
        if isinstance(value, (set, list)):
            # Sorted: the order of a set of texts differs from process to process.
            document[key] = sorted(value)
        else:
            document[key] = getattr(value, "value", value)
    return document
