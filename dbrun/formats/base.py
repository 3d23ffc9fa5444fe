"""What is an export format: what can it carry, where do its files lie, how is it written and read back?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.config_types import subclasses
from dbrun.models.base import Family, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dbrun.adapters.import_adapter import ImportedAdapter


class Format:
    """One format; a subclass lives in a file of its own and sets NAME. What it says of itself needs no torch."""

    NAME: ClassVar[str]
    LARGE: ClassVar[bool] = False
    """Whether it is as large as the base's parts, and so written only where asked for or where nothing else fits."""
    FILE_DESCRIPTION: ClassVar[str | None] = None
    """How to name an adapter of this format that a component is to start from; None where it can be none."""
    CONTENT: ClassVar[str] = "adapters"
    """What it carries, in words."""
    SUMMARY: ClassVar[str]
    """What its files are, in a few words; it stands behind the name where a recipe's `export` is explained."""
    POSITION: ClassVar[int] = 100
    """Where it stands in lists of formats, the least first; formats of one position are in the order of names."""

    def supports(self, family: Family, component: str) -> bool:
        """Whether it is for this component at all; what it is not for goes out in another format."""
        return component in family.components

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Why it cannot carry this adapter of this component, as a clause after its name; None where it can."""
        return None

    def compatibility_warning(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Where a program that takes its files does otherwise than its library, in a sentence; None where all agree.

        It is written only where it is asked for, then.
        """
        return None

    def unsupported_base_reason(self, family: Family, base: Path) -> str | None:
        """Why it cannot carry anything of the base in this folder, as `unsupported_reason` says it;
        None where it can."""
        return None

    def usage(self, family: Family, base: str) -> str | None:
        """How to use its files, in Markdown for the model card. base: what `from_pretrained` takes, as Python."""
        return None

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """The files of an adapter of this format that a path names; None where it names none."""
        return None

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The components that such files can be for, as far as their places tell."""
        return tuple(family.components)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """The type of the adapter that such files hold for a component, by what stands at their beginning.

        Raises RecipeError where they hold none for it, or are not whole.
        """
        raise NotImplementedError

    def weight_prefix(self, family: Family, component: str) -> str:
        """How the names of a component's weights begin in the last of the files that `find_files` gives."""
        return ""

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Where, within a folder, `read` looks for the files that `find_files` gives, in its order."""
        raise NotImplementedError

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """The adapter of one component in such a folder, for training to start from; loaded is spent.

        Raises RecipeError where it does not fit the base, or its library leaves out or changes a weight.
        """
        raise NotImplementedError

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """The weights, by peft's names, that the format's own library holds once it has read one component."""
        raise NotImplementedError

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of these weights, by the same names, module holds after `read`; and any other of an adapter."""
        from peft import get_peft_model_state_dict

        states = [get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
                  for name in getattr(module, "peft_config", {})]
        return {key: tensor for state in states for key, tensor in state.items()}

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write the adapters; the safetensors files written, for their provenance. Equal adapters, equal bytes.

        bare: gives an untouched base, which may be spent.
        """
        raise NotImplementedError

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """(component, name of a weight, what it is with the adapter in it), for each that the adapter changes.

        loaded is afterwards what it was, to the bit.
        """
        from dbrun.formats.merge_weights import merged_weights

        yield from merged_weights(self.read, folder, model, components)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Put what stands in folder onto a fresh base, through the library that the format is of."""
        raise NotImplementedError


def formats() -> Mapping[str, Format]:
    """Every format that has a file here, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.formats", Format)}


def listed_formats() -> Mapping[str, Format]:
    """Every format by name, in the order in which recipes and plans list them."""
    found = formats()
    return {name: found[name] for name in sorted(found, key=lambda name: (found[name].POSITION, name))}
