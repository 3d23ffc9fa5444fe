"""Which words does a text encoder read, and how does a new one come to it?"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Vocabulary:
    """The words of a tokenizer and the text encoder behind it; the vectors of new ones stand beside the base's table.

    new_embeddings: word -> its vectors [n, D]. A word of n vectors is read as the tokens `word word_1 … word_{n-1}`,
    which is how diffusers' `load_textual_inversion` names them.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        from torch.nn import ParameterDict

        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.base_size = len(tokenizer)
        self.new_embeddings = ParameterDict()
        # a plain attribute: what is no tensor and no module is no part of a module
        self.new_embeddings.__dict__["vocabulary"] = self

    def base_embeddings(self, tokens: Sequence[str]) -> Tensor:
        """What the text encoder's own table has for these tokens, float32 [n, D]. Raises KeyError for unknown ones."""
        import torch

        ids = self.tokenizer.convert_tokens_to_ids(list(tokens))
        if missing := [token for token, i in zip(tokens, ids, strict=True)
                       if i is None or (i == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token)]:
            raise KeyError(missing[0])
        table = self.text_encoder.get_input_embeddings().weight
        vectors: Tensor = table.detach()[torch.tensor(ids, device=table.device)].float()
        return vectors

    def initial_vectors(self, text: str, vectors: int) -> Tensor:
        """So many vectors that begin as the tokens of a text, in turn: float32 [vectors, D]. Raises RecipeError."""
        tokens = self.tokenizer.tokenize(text)
        check_initializer(text, len(tokens), vectors)
        return self.base_embeddings([tokens[i % len(tokens)] for i in range(vectors)])

    def add(self, word: str, first: Tensor) -> nn.Parameter:
        """Read this word, which is new, as these vectors [n, D]; the parameter that holds them."""
        from torch.nn import Parameter

        names = token_names(word, len(first))
        check_unused_tokens(names, self.tokenizer.get_vocab())
        if not self.new_embeddings:
            self._patch_embedding_forward()
        self.tokenizer.add_tokens(names)
        self.new_embeddings[word] = Parameter(first)
        parameter: nn.Parameter = self.new_embeddings[word]
        return parameter

    def _patch_embedding_forward(self) -> None:
        """Let the table answer for what it knows, and the rows for what is new."""
        import torch

        table = self.text_encoder.get_input_embeddings()
        of_table = table.forward

        def forward(ids: Tensor) -> Tensor:
            known: Tensor = of_table(ids.clamp(max=self.base_size - 1))
            new = torch.cat(list(self.new_embeddings.values())).to(known.dtype)
            return torch.where((ids >= self.base_size)[..., None], new[(ids - self.base_size).clamp(min=0)], known)

        table.forward = forward


def check_initializer(text: str, tokens: int, vectors: int) -> None:
    """Raise RecipeError where a text of so many tokens cannot be what so many vectors begin as."""
    if not 0 < tokens <= vectors:
        raise RecipeError(f"the initializer '{text}' is {tokens} tokens for this base, and there is room for {vectors}",
                          fix=f"write `vectors: {tokens}`, or a shorter word as `initializer`" if tokens else
                          "name a word as `initializer`")


def check_unused_tokens(names: Iterable[str], known: Container[str]) -> None:
    """Raise RecipeError where the base knows one of the words already."""
    if taken := sorted(name for name in names if name in known):
        raise RecipeError(f"the base knows the word '{taken[0]}' already", fix="choose another word as `token`")


def token_names(word: str, vectors: int) -> list[str]:
    """The tokens that a word of so many vectors is read as."""
    return [word, *(f"{word}_{i}" for i in range(1, vectors))]
