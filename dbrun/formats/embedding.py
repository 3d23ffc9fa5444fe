"""The embedding format: a new word as `pipeline.load_textual_inversion`, ComfyUI and A1111 read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.embedding import Embedding
from dbrun.formats.base import Format
from dbrun.formats.diffusers import TOKEN_PREFIX
from dbrun.models.base import Family, Model
from dbrun.models.new_tokens import Vocabulary, token_names
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "embeddings"


class EmbeddingFormat(Format):
    """`embeddings/<word without its brackets>.safetensors`: one tensor [n, D] under the word's name.

    diffusers takes the word from the tensor's name; ComfyUI and A1111 take it from the file's.
    """

    NAME: ClassVar[str] = "embedding"
    SUMMARY: ClassVar[str] = "a file for `adapt.trigger`"
    POSITION: ClassVar[int] = 70
    CONTENT: ClassVar[str] = "a trigger"

    def supports(self, family: Family, component: str) -> bool:
        """New words only."""
        return component in family.token_components

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """The words' files in its folder within another, or one such file."""
        folder = place if place.name == FOLDER else place / FOLDER
        files = (place,) if place.suffix == ".safetensors" else tuple(sorted(folder.glob("*.safetensors")))
        words = [file.is_file() and all(map(is_token_name, read_header(file).tensors)) for file in files]
        return files if words and all(words) else None

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The words of a family."""
        return family.token_components

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """Vectors."""
        return Embedding.NAME

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Nowhere: `read` takes the folder that the files lie in."""
        return ()

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """No weight of the base changes."""
        yield from ()

    def usage(self, family: Family, base: str) -> str | None:
        """`load_textual_inversion`, and where ComfyUI and A1111 look."""
        return (f"The new word is in `{FOLDER}/`: `pipeline.load_textual_inversion(\"{FOLDER}\")`; in ComfyUI it goes "
                "into `models/embeddings/`, in A1111 into `embeddings/`, and its file's name is the word there.")

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """The word's vectors."""
        return attached.state

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the text encoder's table has for the word's tokens."""
        vocabulary = module.vocabulary
        assert isinstance(vocabulary, Vocabulary)
        found = {}
        for word, vectors in written.items():
            try:
                found[word] = vocabulary.base_embeddings(token_names(word, len(vectors)))
            except KeyError:
                continue
        return found

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """One file for each word."""
        from safetensors.torch import save_file

        home, written = folder / FOLDER, []
        home.mkdir()
        for attached in adapters.values():
            for word, vectors in self.expected_weights(attached).items():
                written.append(home / f"{word.strip('<>')}.safetensors")
                save_file({word: vectors}, written[-1], metadata={"format": "pt"})
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """`load_textual_inversion`."""
        for path in self.find_files(folder) or ():
            model.pipeline.load_textual_inversion(str(path))


def is_token_name(name: str) -> bool:
    """Whether a tensor's name is a new word's."""
    return name.startswith(TOKEN_PREFIX) and name.endswith(">")
