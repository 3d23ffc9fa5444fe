"""The merged format: the whole pipeline with the adapters merged into its weights, for `from_pretrained`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.component import MAX_SHARD_SIZE, ComponentFormat, strip_config_paths
from dbrun.formats.embedding import word_vectors
from dbrun.formats.merge_weights import merge_adapter
from dbrun.formats.older_transformers import write_older_names, write_older_tokenizer
from dbrun.models.base import Family, Model
from dbrun.models.new_tokens import JointVocabulary, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn


class MergedFormat(ComponentFormat):
    """`merged/`: as large as the base, with the scheduler that fits the trained denoiser."""

    NAME: ClassVar[str] = "merged"
    SUMMARY: ClassVar[str] = "the whole pipeline"
    HOLDS_WORDS: ClassVar[bool] = True
    POSITION: ClassVar[int] = 50
    CONTENT: ClassVar[str] = "a whole pipeline"
    HOLDS_ALL: ClassVar[bool] = True

    def supports(self, family: Family, component: str) -> bool:
        """Every component, and new words: its tokenizer and its text encoder have them."""
        return component in (*family.components, *family.token_components)

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """None beside the pipeline itself."""
        return ("# The adapters are merged into the weights of this pipeline.",)

    def pipeline_source(self) -> str | None:
        """The folder of the pipeline."""
        return f'f"{{folder}}/{self.NAME}"'

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write every component of the pipeline, in float32; returns the safetensors files."""
        model = merge_all(family, adapters, bare())
        home = folder / self.NAME
        model.pipeline.save_pretrained(home, safe_serialization=True, max_shard_size=MAX_SHARD_SIZE)
        # Configs record where the base was read from: equal pipelines would differ from machine to machine.
        for path in home.rglob("*.json"):
            strip_config_paths(path)
        for name in family.text_encoders:
            write_older_names(home / name, family, name)
        for name in family.tokenizers:
            write_older_tokenizer(home / name)
        return tuple(sorted(home.rglob("*.safetensors")))

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The module's weights of these names; for new words, their rows [vectors, width] of the encoder's table."""
        if hasattr(module, "vocabulary"):
            return word_vectors(module, written)
        return super().loaded_weights(module, written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Replace all components by those of `merged/`, read by the pipeline's own class."""
        model.release(*model.family.weight_components)
        written = model.family.load(folder / self.NAME, device=model.device, dtype=model.dtype)
        written.weights.offloaded = model.weights.offloaded
        model.replace_components(written.pipeline.components)


def merge_all(family: Family, adapters: Mapping[str, ComponentAdapter], model: Model) -> Model:
    """The model itself, with all adapters merged into its weights in place."""
    for component, attached in adapters.items():
        module = model.module(component)
        attached.attach_to(module)
        if component not in family.token_components:
            merge_adapter(module)
    # Last: a longer table would not fit the weights of a text encoder that learnt in place.
    for component in adapters:
        if component in family.token_components:
            vocabulary = model.module(component).vocabulary
            assert isinstance(vocabulary, Vocabulary | JointVocabulary)
            vocabulary.merge_into_table()
    return model
