"""Textual inversion: a new word, of which only its vectors learn (Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, cast

from pydantic import Field

from dbrun.adapters.base import Learnable
from dbrun.adapters.direct import DirectWeights
from dbrun.config_types import Int, Text

if TYPE_CHECKING:
    from torch import Tensor, nn

TOKEN_PATTERN = r"^<[a-z0-9][a-z0-9_-]{0,61}>$"
"""A word of its own for every tokenizer, and a file name without its brackets."""


class VocabularyLike(Protocol):
    """The vocabulary that a family's module of new words belongs to."""

    def initial_vectors(self, text: str, vectors: int) -> Tensor:
        """So many vectors that begin as the tokens of a text, float32 [vectors, D]."""

    def add(self, word: str, first: Tensor) -> nn.Parameter:
        """Read this word as these vectors; the parameter that holds them."""


class Embedding(Learnable):
    """The trigger as a new word of the text encoder, which nothing but its own vectors knows."""

    NAME: ClassVar[str] = "embedding"
    uses_peft: ClassVar[bool] = False

    type: Literal["embedding"] = "embedding"
    """What learns: the word's embedding."""
    token: Annotated[Text, Field(pattern=TOKEN_PATTERN, examples=["<sks>"])]
    """The new word, in < >; the instance prompt says it, such as `a photo of <sks> dog`."""
    initializer: Annotated[Text, Field(min_length=1, max_length=100)]
    """A word that the base knows and the new one begins as, such as `dog`."""
    vectors: Annotated[Int, Field(ge=1, le=64)] = 1
    """How many tokens long the word is; more say more, and leave fewer for the rest of the prompt."""

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights:
        """Add the word to the vocabulary whose rows module is, and let its vectors learn."""
        vocabulary = cast(VocabularyLike, module.vocabulary)
        initial = vocabulary.initial_vectors(self.initializer, self.vectors)
        return DirectWeights({self.token: vocabulary.add(self.token, initial)})
