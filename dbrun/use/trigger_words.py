"""How do the new words that lie beside adapters get into a base in memory, and out again?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbrun.errors import UsageError
from dbrun.formats.base import Format, formats
from dbrun.models.base import Family, Model
from dbrun.safetensors_header import read_header
from dbrun.use.adapter_files import AdapterFile

if TYPE_CHECKING:
    from torch import Tensor


class TriggerWords:
    """The tokenizer and the table of a base in memory, and what words stand in them beside its own."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._original: tuple[Any, Tensor] | None = None

    def apply(self, adapters: Sequence[AdapterFile]) -> None:
        """Let the base know the words of these adapters, whatever it knew before. Raises UsageError."""
        self.restore()
        known = find_words(adapters, self.model.family)
        if not known:
            return
        tokenizer, table = self.model.pipeline.tokenizer, self._embedding_layer()
        self._original = (tokenizer, table.weight.data)
        self.model.pipeline.tokenizer = deepcopy(tokenizer)
        for place in dict.fromkeys(known.values()):
            for component, form in _word_formats(self.model.family).items():
                form.read(place, self.model, (component,))

    def restore(self) -> None:
        """Let the base know its own words only."""
        if self._original is None:
            return
        pipeline, (tokenizer, weights) = self.model.pipeline, self._original
        table = self._embedding_layer()
        table.weight.data, table.num_embeddings = weights, len(weights)
        pipeline.text_encoder.config.vocab_size = len(weights)
        pipeline.tokenizer, self._original = tokenizer, None

    def _embedding_layer(self) -> Any:
        return self.model.pipeline.text_encoder.get_input_embeddings()


def find_words(adapters: Sequence[AdapterFile], family: Family) -> Mapping[str, Path]:
    """The new words that lie beside adapters, as prompts say them, and in which folder.

    Raises UsageError where two of them have one word.
    """
    known: dict[str, Path] = {}
    for place in dict.fromkeys(a.place if a.place.is_dir() else a.place.parent for a in adapters):
        for file in (file for form in _word_formats(family).values() for file in form.find_files(place) or ()):
            for word in read_header(file).tensors:
                if other := known.get(word):
                    raise UsageError(f"{other} and {place} both have a word {word}, and a prompt can mean one of them",
                                     fix="draw one of them at a time: --each")
                known[word] = place
    return known


def uncarried_words(adapters: Sequence[AdapterFile], family: Family) -> tuple[str, ...]:
    """What of adapters stays in files of its own where they are written as something else, a clause each."""
    return tuple(f"the word {word}, which stays in {place}" for adapter in adapters
                 for word, place in find_words([adapter], family).items())


def _word_formats(family: Family) -> Mapping[str, Format]:
    """What carries the words that a family can learn, by their component."""
    return {word: form for form in formats().values()
            for word in family.token_components if form.supports(family, word)}
