"""The PEFT format: a folder for each component that `PeftModel.from_pretrained` reads."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from peft import PeftConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor

from dbrun.adapters.artifact import Attached
from dbrun.families.base import Family, Loaded
from dbrun.formats.base import Format

PREFIX = "base_model.model."
SAID = ("peft_type", "r", "lora_alpha", "alpha", "oft_block_size", "target_modules", "base_model_name_or_path")
"""Settings that are written even where they are peft's defaults."""


class Peft(Format):
    """`peft/<component>/adapter_config.json` and `adapter_model.safetensors`."""

    NAME: ClassVar[str] = "peft"

    def weights(self, attached: Attached) -> Mapping[str, Tensor]:
        """The adapter's own, on an untouched base."""
        return attached.adapter.exported(attached.modules, attached.state)[1]

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached],
              bare: Callable[[], Loaded]) -> tuple[Path, ...]:
        """One folder for each component."""
        written = []
        for component, attached in adapters.items():
            home = folder / "peft" / component
            home.mkdir(parents=True)
            config, state = attached.adapter.exported(attached.modules, attached.state)
            text = json.dumps(settings(config), indent=2, sort_keys=True) + "\n"
            (home / "adapter_config.json").write_text(text, encoding="utf-8")
            tensors = {PREFIX + name: tensor for name, tensor in state.items()}
            save_file(tensors, home / "adapter_model.safetensors", metadata={"format": "pt"})
            written.append(home / "adapter_model.safetensors")
        return tuple(written)

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """`PeftModel.from_pretrained` on each component's module."""
        with warnings.catch_warnings():
            # what peft asks of transformers is no news to a user
            warnings.simplefilter("ignore", FutureWarning)
            for component in components:
                PeftModel.from_pretrained(family.module(loaded, component), folder / "peft" / component,
                                          torch_device=str(loaded.device))


def settings(config: PeftConfig) -> dict[str, object]:
    """The config as JSON data without what is peft's default, so that an older peft knows every word in it.

    No path, no exact version, sets in order: equal adapters give equal bytes on every machine.
    """
    usual = type(config)().to_dict()
    own = {**config.to_dict(), "inference_mode": True, "base_model_name_or_path": None}
    kept = {key: value for key, value in own.items()
            if key != "peft_version" and (key in SAID or value != usual.get(key))}
    return {key: sorted(value) if isinstance(value, (set, list)) else getattr(value, "value", value)
            for key, value in kept.items()}
