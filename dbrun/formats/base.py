"""What is an export format: how is it written, and how does its own library read it back?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.artifact import Attached
from dbrun.families.base import Family, Loaded
from dbrun.parts import subclasses

if TYPE_CHECKING:
    from torch import Tensor, nn


class Format:
    """One format; a subclass lives in a file of its own and sets NAME."""

    NAME: ClassVar[str]

    def weights(self, attached: Attached) -> Mapping[str, Tensor]:
        """The weights, by peft's names, that the format's own library holds once it has read one component."""
        raise NotImplementedError

    def arrived(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of these weights, by the same names, module holds after `read`; and any other of an adapter."""
        from peft import get_peft_model_state_dict

        states = [get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
                  for name in getattr(module, "peft_config", {})]
        return {key: tensor for state in states for key, tensor in state.items()}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached],
              bare: Callable[[], Loaded]) -> tuple[Path, ...]:
        """Write the adapters; the safetensors files written, for their provenance. Equal adapters, equal bytes.

        bare: gives an untouched base, which may be spent.
        """
        raise NotImplementedError

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """Put what stands in folder onto a fresh base, through the library that the format is of."""
        raise NotImplementedError


def formats() -> Mapping[str, Format]:
    """Every format that has a file here, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.formats", Format)}
