"""The diffusers format: one `pytorch_lora_weights.safetensors` that `pipeline.load_lora_weights` reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from dbrun.adapters.artifact import Attached
from dbrun.families.base import Family, Loaded
from dbrun.formats.base import Format


class Diffusers(Format):
    """The names and scales are the family's business; the file stands in the folder itself."""

    NAME: ClassVar[str] = "diffusers"

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached]) -> tuple[Path, ...]:
        """One file for all components."""
        states = {name: attached.state for name, attached in adapters.items()}
        configs = {name: a.adapter.peft_config(a.modules).to_dict() for name, a in adapters.items()}
        return (family.save_adapters(folder, states, configs),)

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """`load_lora_weights`."""
        loaded.pipeline.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors")
