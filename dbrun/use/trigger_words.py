"""Adding the new words that belong to adapters to a base in memory, and removing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import UsageError
from dbrun.formats.base import Format, formats
from dbrun.formats.embedding import words_in
from dbrun.input_file import folder_exists
from dbrun.models.base import Family, Model
from dbrun.use.adapter_files import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor


class TriggerWords:
    """Tokenizers and embedding tables of a base in memory, with the new words that are added to them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._original: dict[str, tuple[Any, Tensor]] = {}

    def apply(self, adapters: Sequence[AdapterFile]) -> None:
        """Remove earlier words, then add those of these adapters. Raises UsageError if two have the same word."""
        self.restore()
        family = self.model.family
        places = find_words(adapters, family)
        if not places:
            return
        for name, text_encoder in zip(family.tokenizers, family.text_encoders, strict=True):
            tokenizer = self.model.component(name)
            self._original[text_encoder] = (tokenizer, self._embedding_layer(text_encoder).weight.data)
            # A copy gets the words: tokens cannot be removed from a tokenizer.
            self.model.replace_components({name: deepcopy(tokenizer)})
        for place in dict.fromkeys(places.values()):
            for component, form in _word_formats(family).items():
                form.read(place, self.model, (component,))

    def restore(self) -> None:
        """Remove all new words; tokenizers and tables are the original objects again."""
        family = self.model.family
        for name, text_encoder in zip(family.tokenizers, family.text_encoders, strict=True):
            if text_encoder not in self._original:
                continue
            tokenizer, weights = self._original.pop(text_encoder)
            table = self._embedding_layer(text_encoder)
            # The table was enlarged by new data in the same layer, so the old data and size restore it.
            table.weight.data, table.num_embeddings = weights, len(weights)
            self.model.component(text_encoder).config.vocab_size = len(weights)
            self.model.replace_components({name: tokenizer})

    def _embedding_layer(self, text_encoder: str) -> Any:
        return self.model.component(text_encoder).get_input_embeddings()


def find_words(adapters: Sequence[AdapterFile], family: Family) -> Mapping[str, Path]:
    """New word as prompts write it -> the folder of the adapter that it belongs to.

    Raises UsageError if two adapters have the same word.
    """
    folders = []
    for adapter in adapters:
        folder = adapter.place
        if not folder_exists(folder):
            folder = folder.parent
        folders.append(folder)
    forms = _word_formats(family).values()
    words: dict[str, Path] = {}
    # Each folder once: two adapters of one run share its words.
    for folder in dict.fromkeys(folders):
        files: list[Path] = []
        for form in forms:
            files += form.find_files(folder) or ()
        for file in files:
            for word in words_in(file):
                if word in words:
                    raise UsageError(f"{words[word]} and {folder} both have a word {word}, and a prompt can mean one "
                                     "of them", fix="draw one of them at a time: --each")
                words[word] = folder
    return words


def uncarried_words(adapters: Sequence[AdapterFile], family: Family) -> tuple[str, ...]:
    """Clause for each new word of these adapters: words stay in their files when an adapter is converted."""
    clauses: list[str] = []
    for adapter in adapters:
        for word, place in find_words([adapter], family).items():
            clauses.append(f"the word {word}, which stays in {place}")
    return tuple(clauses)


def _word_formats(family: Family) -> Mapping[str, Format]:
    """Component of the family that is a new word -> the format for it alone."""
    # A large format has the words inside of whole components, where they are in use already.
    small = [form for form in formats().values() if not form.LARGE]
    return {word: form for form in small for word in family.token_components if form.supports(family, word)}
