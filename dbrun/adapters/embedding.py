"""Textual inversion: a new word, of which only its own vectors learn (Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, cast

from pydantic import Field

from dbrun.adapters.base import Learnable
from dbrun.adapters.direct import DirectWeights
from dbrun.config_types import Int, PromptText, Text

if TYPE_CHECKING:
    from torch import Tensor, nn

# Lower case only: CLIP's tokenizer lowers its input, so `<Sks>` and `<sks>` would be one word.
TOKEN_PATTERN = r"^<[a-z0-9][a-z0-9_-]{0,61}>$"
"""Pattern of a new word: new to every tokenizer, and a valid file name without its brackets."""


class VocabularyLike(Protocol):
    """Interface of a family's vocabulary (tokenizer and embedding table), as far as a new word needs it."""

    def initial_vectors(self, text: str, vectors: int) -> Tensor:
        """Initial vectors taken from the tokens of a text: float32 [vectors, D]."""

    def add(self, word: str, first: Tensor) -> nn.Parameter:
        """Add a word with these vectors [n, D]; returns the parameter [n, D] that holds them."""


class Embedding(Learnable):
    """The trigger as a new word of the text encoder; only the word's own vectors learn."""

    NAME: ClassVar[str] = "embedding"
    uses_peft: ClassVar[bool] = False

    type: Literal["embedding"] = "embedding"
    """What learns: the word's embedding."""
    token: Annotated[Text, Field(pattern=TOKEN_PATTERN, examples=["<sks>"])]
    """The new word, in < >; use it in the instance prompt, such as `a photo of <sks> dog`."""
    initializer: Annotated[PromptText, Field(min_length=1, max_length=100)]
    """A word that the base knows; the new word starts with its vectors. Such as `dog`."""
    vectors: Annotated[Int, Field(ge=1, le=64)] = 1
    """Length of the word in tokens. More tokens can learn more, and leave fewer for the rest of the prompt."""

    def attach_direct(self, module: nn.Module, modules: tuple[str, ...]) -> DirectWeights:
        """Add the word to the vocabulary of module, and make its vectors trainable."""
        vocabulary = cast(VocabularyLike, module.vocabulary)
        initial = vocabulary.initial_vectors(self.initializer, self.vectors)
        # A parameter of its own, not a row of the table: weight decay and gradients must not reach the other words.
        return DirectWeights({self.token: vocabulary.add(self.token, initial)})
