"""The embedding format: a new word in a file for `pipeline.load_textual_inversion`, ComfyUI and A1111."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.embedding import Embedding
from dbrun.errors import RecipeError
from dbrun.formats.base import Format
from dbrun.formats.diffusers import TOKEN_PREFIX, encoder_keys
from dbrun.input_file import file_exists
from dbrun.models.base import Family, Model
from dbrun.models.new_tokens import JointVocabulary, Vocabulary, split_vector_name
from dbrun.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "embeddings"
KOHYA_KEY = "emb_params"
"""Name of the only tensor in a word's file of kohya's trainers and A1111; the word is the file's name."""


class EmbeddingFormat(Format):
    """`embeddings/<word without its brackets>.safetensors`: one tensor [n, D], named by the word.

    diffusers takes the word from the tensor's name; ComfyUI and A1111 take it from the file's name. For a base with
    several text encoders: a tensor for each, by the family's `embedding_keys`, which all three take.
    """

    NAME: ClassVar[str] = "embedding"
    SUMMARY: ClassVar[str] = "a file for `adapt.trigger`"
    SPEC_SUFFIX: ClassVar[str | None] = "/textual-inversion"
    LOADS_IN: ClassVar[str] = "diffusers (`load_textual_inversion`), ComfyUI and A1111"
    POSITION: ClassVar[int] = 70
    CONTENT: ClassVar[str] = "a trigger"

    def supports(self, family: Family, component: str) -> bool:
        """Whether the component is a new word, such as `trigger`."""
        return component in family.token_components

    def find_files(self, place: Path) -> tuple[Path, ...] | None:
        """The words' files in `embeddings/` or in the folder above it, or one such file."""
        files: tuple[Path, ...] = (place,)
        if place.suffix != ".safetensors":
            folder = place
            if place.name != FOLDER:
                folder = place / FOLDER
            files = tuple(sorted(folder.glob("*.safetensors")))
        # `embeddings/` may be the user's own: one file of another kind, and the folder is not this format's.
        have_words = [file_exists(file) and bool(words_in(file)) for file in files]
        if not files or not all(have_words):
            return None
        return files

    def candidate_components(self, files: tuple[Path, ...], family: Family) -> tuple[str, ...]:
        """The components of the family that are new words."""
        return family.token_components

    def adapter_type(self, files: tuple[Path, ...], family: Family, component: str) -> str:
        """`embedding`."""
        return Embedding.NAME

    def relative_paths(self, component: str) -> tuple[str, ...]:
        """Empty: `read` takes the folder that the files are in."""
        return ()

    def changed_weights(self, folder: Path, model: Model,
                        components: tuple[str, ...]) -> Iterator[tuple[str, str, Tensor]]:
        """Yield nothing: a new word changes no weight of the base."""
        yield from ()

    def loading_lines(self, family: Family, recipe: Mapping[str, Any]) -> tuple[str, ...]:
        """`load_textual_inversion` for each new word, and for each of several text encoders."""
        lines: list[str] = []
        for adapter in (recipe.get("adapt") or {}).values():
            if adapter and "token" in adapter:
                lines += _word_lines(family, str(adapter["token"]))
        if lines and family.embedding_keys:
            lines.insert(0, "from safetensors.torch import load_file")
        return tuple(dict.fromkeys(lines))

    def usage(self, family: Family) -> str | None:
        """The folders of ComfyUI and A1111."""
        return (f"The new word is in `{FOLDER}/`: in ComfyUI its file goes into `models/embeddings/` and is written "
                "`embedding:NAME`, in A1111 into `embeddings/`; the file's name is the word there.")

    def expected_weights(self, attached: ComponentAdapter) -> Mapping[str, Tensor]:
        """Word -> its vectors, float32 [n, D]; `<word>.<key>` for each of several text encoders."""
        return attached.state

    def loaded_weights(self, module: nn.Module, written: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Word -> the rows [n, D] of the text encoder's table for its tokens; unknown words are left out."""
        return word_vectors(module, written)

    def write(self, folder: Path, family: Family, adapters: Mapping[str, ComponentAdapter],
              bare: Callable[[], Model]) -> tuple[Path, ...]:
        """Write one file for each word; returns the files."""
        from safetensors.torch import save_file

        home, written = folder / FOLDER, []
        home.mkdir()
        for attached in adapters.values():
            by_word: dict[str, dict[str, Tensor]] = {}
            for name, vectors in self.expected_weights(attached).items():
                word, key = split_vector_name(name)
                by_word.setdefault(word, {})[key or word] = vectors
            for word, tensors in by_word.items():
                # Without the brackets, which file systems and shells do not take well.
                path = home / f"{word.strip('<>')}.safetensors"
                save_file(tensors, path, metadata={"format": "pt"})
                written.append(path)
        return tuple(written)

    def read(self, folder: Path, model: Model, components: tuple[str, ...]) -> None:
        """Load every file with `load_textual_inversion`. Raises RecipeError for a file of another kind of base."""
        from safetensors.torch import load_file

        family = model.family
        for path in self.find_files(folder) or ():
            pipeline = model.pipeline_with(*family.text_encoders)
            keys = frozenset(read_header(path).tensors) & encoder_keys()
            if keys != frozenset(family.embedding_keys):
                found = ", ".join(sorted(keys)) or "one vector for each token"
                raise RecipeError(f"{path} is not a learned word for `base.type: {family.NAME}`: it holds {found}",
                                  fix="name a word that was trained on this base")
            if KOHYA_KEY in read_header(path).tensors:
                pipeline.load_textual_inversion(load_file(path)[KOHYA_KEY], token=words_in(path)[0])
            elif not keys:
                pipeline.load_textual_inversion(str(path))
            else:
                _read_each(path, pipeline, family)


def _read_each(path: Path, pipeline: Any, family: Family) -> None:
    """Load the vectors of each text encoder; pipeline: of diffusers."""
    from safetensors.torch import load_file

    tensors, (word,) = load_file(path), words_in(path)
    for key, tokenizer, text_encoder in zip(family.embedding_keys, family.tokenizers, family.text_encoders,
                                            strict=True):
        pipeline.load_textual_inversion(tensors[key], token=word, tokenizer=getattr(pipeline, tokenizer),
                                        text_encoder=getattr(pipeline, text_encoder))


def _word_lines(family: Family, word: str) -> list[str]:
    """Python that loads a word's vectors, for each text encoder if a base has several."""
    file = f'f"{{folder}}/{FOLDER}/{word.strip("<>")}.safetensors"'
    if not family.embedding_keys:
        return [f'pipeline.load_textual_inversion({file}, token="{word}")']
    lines = [f"vectors = load_file({file})"]
    for key, tokenizer, text_encoder in zip(family.embedding_keys, family.tokenizers, family.text_encoders,
                                            strict=True):
        lines.append(f'pipeline.load_textual_inversion(vectors["{key}"], token="{word}", '
                     f"tokenizer=pipeline.{tokenizer}, text_encoder=pipeline.{text_encoder})")
    return lines


def words_in(file: Path) -> tuple[str, ...]:
    """New words in a file: the names of its tensors, or its own name where they are named by text encoder.

    Empty for a file of another kind.
    """
    names = tuple(read_header(file).tensors)
    if names == (KOHYA_KEY,) or (names and encoder_keys().issuperset(names)):
        return (f"<{file.stem}>",)
    if all(map(is_token_name, names)):
        return names
    return ()


def is_token_name(name: str) -> bool:
    """Whether a tensor's name is a new word, such as `<sks>`."""
    return name.startswith(TOKEN_PREFIX) and name.endswith(">")


def word_vectors(module: nn.Module, words: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Word -> the rows [n, D] of the text encoder's table for its tokens; unknown words are left out.

    module: of a component of new words; words: word -> vectors, of which only the number counts.
    """
    vocabulary = module.vocabulary
    assert isinstance(vocabulary, Vocabulary | JointVocabulary)
    found: dict[str, Tensor] = {}
    for name, vectors in words.items():
        try:
            found[name] = vocabulary.known_vectors(name, len(vectors))
        except KeyError:
            # The caller reports a word that is missing here as lost in the format.
            continue
    return found
