"""Base class of the export formats: what a format can carry, where its files are, how they are written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.base import Adapter
from dbrun.config_types import subclasses
from dbrun.models.base import Family, Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dbrun.adapters.import_adapter import ImportedAdapter


class Format:
    """Base class of an export format; a subclass has a file of its own and sets NAME.

    Methods without a model or a tensor work without torch: plans and error messages call them.
    """

    NAME: ClassVar[str]
    LARGE: ClassVar[bool] = False
    """Whether it is as large as the base's components; then it is written only on request or if nothing else fits."""
    ADDS_TO_WEIGHTS: ClassVar[bool] = False
    """Whether writing or reading it adds the update to the base's weights, which quantised weights cannot take."""
    HOLDS_ALL: ClassVar[bool] = False
    """Whether it holds every component of the base, adapted or not: a whole pipeline."""
    FILE_DESCRIPTION: ClassVar[str | None] = None
    """How a user names an adapter of this format to start from; None if training cannot start from one."""
    CONTENT: ClassVar[str] = "adapters"
    """What it carries, in words. `adapters`: files for use on top of a base."""
    SUMMARY: ClassVar[str]
    """What its files are, in a few words; shown behind the name in the explanation of `export`."""
    SPEC_SUFFIX: ClassVar[str | None] = "/lora"
    """End of `modelspec.architecture` in its files; None for files of which programs show no metadata."""
    LOADS_IN: ClassVar[str] = "the library that it is named after"
    """The programs that read its files, for people."""
    TRANSFORMER_LOADS_IN: ClassVar[str | None] = None
    """The same for files on top of a transformer; None where that makes no difference."""
    LOADED_BY: ClassVar[str] = "diffusers"
    """The library that its `loading_lines` use."""
    HOLDS_WORDS: ClassVar[bool] = False
    """Whether it holds new words together with the components."""
    WEIGHT_HINT: ClassVar[str | None] = None
    """How to set the weight of its adapter, for the model card; None if that is not possible."""
    POSITION: ClassVar[int] = 100
    """Place in lists of formats, the lowest first; formats of equal position are sorted by name."""

    @classmethod
    def loads_in(cls, *, transformer: bool) -> str:
        """The programs that read its files, for people. transformer: whether the base's denoiser is one."""
        return (transformer and cls.TRANSFORMER_LOADS_IN) or cls.LOADS_IN

    def peak_copies(self, weights: Mapping[str, int], adapted: Sequence[str]) -> int:
        """Most bytes that writing a large format or reading it back takes in CPU memory, beside base and adapters.

        By default the merged weights: safetensors writes a file from them as they are.
        weights: component by its name in model_index.json -> its bytes; adapted: those that carry adapters.
        """
        return sum(weights[name] for name in adapted)

    def supports(self, family: Family, component: str) -> bool:
        """Whether this format can hold this component; other formats hold the others."""
        return component in family.components

    def unsupported_reason(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Why it cannot carry this adapter of this component, as a clause that follows its name; None if it can."""
        return None

    def compatibility_warning(self, family: Family, component: str, adapter: Adapter) -> str | None:
        """Sentence on programs that read its files differently than its own library; None if all agree.

        A format with a warning is written only on request.
        """
        return None

    def is_usual(self, family: Family) -> bool:
        """Whether it is written for this family without being named in `export`."""
        return True

    def passed_over(self, family: Family, component: str, adapter: Adapter, layers: Sequence[str]) -> tuple[str, ...]:
        """Clause for each group of programs that read its files and ignore some of these layers without an error.

        layers: full names of those that the adapter is on. The programs come first, then how many layers.
        """
        return ()

    def unsupported_base_reason(self, family: Family, base: Path) -> str | None:
        """Why it cannot carry anything of the base in this folder, as such a clause; None if it can."""
        return None

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """Python for the model card that puts the adapter in `folder` onto `pipeline`; empty if no Python reads it.

        recipe: the one in the provenance. Names `dtype` and `device` are defined; imports begin with `from`.
        """
        return ()

    def pipeline_source(self) -> str | None:
        """Python expression of the folder of a whole pipeline, which needs no base; None for files on top of one."""
        return None

    def usage(self, family: Family) -> str | None:
        """Instructions in Markdown for programs other than Python's libraries; None if there are none."""
        return None

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """Files of an adapter of this format at a path (a file or a folder); None if there is none."""
        return None

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """Components that these files can belong to, as far as their paths tell."""
        return tuple(family.components)

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """Type of the adapter that these files hold for a component, read from their headers only.

        Raises RecipeError if they hold none for it, or are truncated.
        """
        raise NotImplementedError

    def weight_prefix(self, family: Family, component: str) -> str:
        """Prefix of a component's weight names in the last of the files from `find_files`."""
        return ""

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Paths in a folder where `read` expects the files from `find_files`, in the same order."""
        raise NotImplementedError

    def import_adapter(self, folder: Path, model: Model, component: str) -> ImportedAdapter:
        """Read the adapter of one component in a folder, for training to start from; the model is unusable afterwards.

        Raises RecipeError if it does not fit the base, or if its library ignores or changes a weight.
        """
        raise NotImplementedError

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Weights by peft's names, float32, that the format's own library must hold after reading one component.

        Shapes are those of the adapter type, such as A [rank, in] and B [out, rank]. Empty if the library adds the
        update to the base's weights.
        """
        raise NotImplementedError

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Adapter weights on module after `read`, by the names and in the shapes of `written`, such as A [rank, in].

        Weights that are not in `written` are returned too, so that the caller sees what does not belong there.
        """
        from peft import get_peft_model_state_dict

        loaded: dict[str, Tensor] = {}
        # Each library chooses the adapter's name itself, such as `default_0` in diffusers.
        for name in getattr(module, "peft_config", {}):
            loaded |= get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
        return loaded

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write the adapters; returns the safetensors files written. Equal adapters give equal bytes.

        bare: loads an untouched base, which the format may change.
        """
        raise NotImplementedError

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Yield (component, weight name, weight with the adapter merged) for each weight that the adapter changes.

        The weight has the shape of the base's own, [out, in …]. Afterwards the model is what it was, bit for bit.
        """
        from dbrun.formats.merge_weights import merged_weights

        yield from merged_weights(self.NAME, self.read, folder, model, components)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Load the files in folder onto a fresh base, through the format's own library."""
        raise NotImplementedError


def formats() -> Mapping[str, Format]:
    """Name -> format, for all subclasses of `Format` in the files of this package."""
    return {c.NAME: c() for c in subclasses("dbrun.formats", Format)}


def listed_formats() -> Mapping[str, Format]:
    """Name -> format, in the order in which recipes and plans list them."""
    by_position = sorted(formats().items(), key=lambda item: (item[1].POSITION, item[0]))
    return dict(by_position)
