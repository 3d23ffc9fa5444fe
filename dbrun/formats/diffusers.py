"""The diffusers format: one `pytorch_lora_weights.safetensors` that `pipeline.load_lora_weights` reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from safetensors.torch import save_file
from torch import Tensor

from dbrun.adapters.artifact import Attached
from dbrun.families.base import Family, Loaded
from dbrun.formats.base import Format

FILE = "pytorch_lora_weights.safetensors"


class Diffusers(Format):
    """LoRA weights of scale 1 under the family's prefixes; the file stands in the folder itself.

    alpha / rank is in B, so that every reader scales rightly: one that ignores metadata, as older diffusers does, and
    one whose LoraConfig lacks a field that ours has, takes alpha = rank and is right.
    """

    NAME: ClassVar[str] = "diffusers"

    def weights(self, attached: Attached) -> Mapping[str, Tensor]:
        """The adapter's, as LoRA."""
        return attached.adapter.lora(attached.state)

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached],
              bare: Callable[[], Loaded]) -> tuple[Path, ...]:
        """One file for all components."""
        tensors: dict[str, Tensor] = {}
        for component, attached in adapters.items():
            begins, written = family.prefixes[component]
            tensors |= {written + _whole(name.removeprefix(begins)): tensor.contiguous()
                        for name, tensor in self.weights(attached).items()}
        save_file(tensors, folder / FILE, metadata={"format": "pt"})
        return (folder / FILE,)

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """`load_lora_weights`."""
        loaded.pipeline.load_lora_weights(str(folder), weight_name=FILE)


def _whole(name: str) -> str:
    """DoRA's magnitude by its parameter's whole name: transformers passes over it otherwise, peft takes both."""
    return f"{name}.weight" if name.endswith(".lora_magnitude_vector") else name
