"""Textual inversion: a new word, of which only its own vectors learn (Gal et al. 2022, arXiv:2208.01618)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, cast

from pydantic import Field

from dbrun.adapters.base import Learnable
from dbrun.adapters.direct import DirectWeights
from dbrun.config_types import Int, PromptText, Text

if TYPE_CHECKING:
    from torch import nn

# Lower case only: CLIP's tokenizer lowers its input, so `<Sks>` and `<sks>` would be one word.
TOKEN_PATTERN = r"^<[a-z0-9][a-z0-9_-]{0,61}>$"
"""Pattern of a new word: new to every tokenizer, and a valid file name without its brackets."""


class VocabularyLike(Protocol):
    """Interface of a family's vocabulary (tokenizer and embedding table), as far as a new word needs it."""

    def learn(self, word: str, text: str, vectors: int) -> dict[str, nn.Parameter]:
        """Add a word that starts with the vectors of a text; returns the parameters [vectors, D], by name."""


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
        # Parameters of their own, not rows of a table: weight decay and gradients must not reach the other words.
        return DirectWeights(vocabulary.learn(self.token, self.initializer, self.vectors))
