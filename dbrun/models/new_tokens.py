"""New words of a text encoder (textual inversion): their tokens, their trainable vectors, and the checks of both."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Vocabulary:
    """Tokenizer and text encoder with new words; the base's embedding table itself is never changed or resized.

    new_embeddings: new word → its trainable vectors [n, D]. A word of n vectors is read as the tokens
    `word word_1 … word_{n-1}`, which are the names that diffusers' `load_textual_inversion` uses.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        from torch.nn import ParameterDict

        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        self.base_size = len(tokenizer)
        self.new_embeddings = ParameterDict()
        # past nn.Module.__setattr__: a back reference must not become a parameter or a submodule
        self.new_embeddings.__dict__["vocabulary"] = self

    def base_embeddings(self, tokens: Sequence[str]) -> Tensor:
        """Rows of the base's embedding table for tokens, float32 [n, D]. Raises KeyError for an unknown token."""
        import torch

        ids = self.tokenizer.convert_tokens_to_ids(list(tokens))
        for token, token_id in zip(tokens, ids, strict=True):
            # CLIP's tokenizers answer with the unknown token's id, others with None
            is_unknown = token_id == self.tokenizer.unk_token_id and token != self.tokenizer.unk_token
            if token_id is None or is_unknown:
                raise KeyError(token)
        table = self.text_encoder.get_input_embeddings().weight
        vectors: Tensor = table.detach()[torch.tensor(ids, device=table.device)].float()
        return vectors

    def initial_vectors(self, text: str, vectors: int) -> Tensor:
        """Start values float32 [vectors, D] from the tokens of text, repeated in turn. Raises RecipeError."""
        tokens = self.tokenizer.tokenize(text)
        check_initializer(text, len(tokens), vectors)
        return self.base_embeddings([tokens[i % len(tokens)] for i in range(vectors)])

    def learn(self, word: str, text: str, vectors: int) -> dict[str, nn.Parameter]:
        """Add a new word that starts as text; returns its vectors by their name. Raises RecipeError."""
        return {word: self.add(word, self.initial_vectors(text, vectors))}

    def known_vectors(self, name: str, vectors: int) -> Tensor:
        """Rows [vectors, width] of the base's embedding table, by the name that `learn` gave. Raises KeyError."""
        return self.base_embeddings(token_names(name, vectors))

    def add(self, word: str, first: Tensor) -> nn.Parameter:
        """Add a new word with the start values first [n, D]; returns the parameter that holds its vectors.

        Raises RecipeError where the base's tokenizer has one of its tokens already.
        """
        from torch.nn import Parameter

        names = token_names(word, len(first))
        check_unused_tokens(names, self.tokenizer.get_vocab())
        # once for all words: the patched forward reads whatever words there are by then
        if not self.new_embeddings:
            self._patch_embedding_forward()
        self.tokenizer.add_tokens(names)
        self.new_embeddings[word] = Parameter(first)
        parameter: nn.Parameter = self.new_embeddings[word]
        return parameter

    def merge_into_table(self) -> None:
        """Move the new vectors into the text encoder's own table, in place: a saved encoder has the words then.

        The table is replaced by a longer one; no new word is left to train.
        """
        import torch

        table = self.text_encoder.get_input_embeddings()
        # the instance's own forward goes, the class's is left
        del table.forward
        names: list[str] = []
        for word, vectors in self.new_embeddings.items():
            names += token_names(word, len(vectors))
        ids = self.tokenizer.convert_tokens_to_ids(names)
        # a base's table can be longer than its tokenizer; mean resizing would draw from the global generator
        size = max(len(table.weight), len(self.tokenizer))
        longer = self.text_encoder.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            longer.weight[ids] = torch.cat(list(self.new_embeddings.values())).to(longer.weight)
        self.new_embeddings.clear()

    def _patch_embedding_forward(self) -> None:
        """Make the embedding layer return the new vectors for the new tokens' ids, [B, L] → [B, L, D]."""
        import torch

        table = self.text_encoder.get_input_embeddings()
        table_forward = table.forward

        # looked up apart, so that gradients reach the new rows alone: with one resized table, AdamW's weight decay
        # would move every word of the base
        def forward(ids: Tensor) -> Tensor:
            base_rows: Tensor = table_forward(ids.clamp(max=self.base_size - 1))
            new_table = torch.cat(list(self.new_embeddings.values())).to(base_rows.dtype)
            new_rows = new_table[(ids - self.base_size).clamp(min=0)]
            is_new = (ids >= self.base_size)[..., None]
            return torch.where(is_new, new_rows, base_rows)

        table.forward = forward


class JointVocabulary:
    """Vocabularies of several text encoders that read the same prompt: a new word is new to all of them.

    by_encoder: key of an encoder in files → its vocabulary. The vectors of `<sks>` are named `<sks>.<key>`;
    new_embeddings: key → those of one encoder.
    """

    def __init__(self, by_encoder: Mapping[str, Vocabulary]) -> None:
        from torch.nn import ModuleDict

        self.by_encoder = by_encoder
        self.new_embeddings = ModuleDict({key: one.new_embeddings for key, one in by_encoder.items()})
        self.new_embeddings.__dict__["vocabulary"] = self

    def learn(self, word: str, text: str, vectors: int) -> dict[str, nn.Parameter]:
        """Add a new word that starts as text to every encoder, as `Vocabulary.learn` does."""
        # all start values first: an encoder that refuses them must leave none with the word
        first = {key: one.initial_vectors(text, vectors) for key, one in self.by_encoder.items()}
        return {f"{word}.{key}": one.add(word, first[key]) for key, one in self.by_encoder.items()}

    def known_vectors(self, name: str, vectors: int) -> Tensor:
        """Rows [vectors, width] of one encoder's embedding table, by the name that `learn` gave. Raises KeyError."""
        word, key = split_vector_name(name)
        return self.by_encoder[key].known_vectors(word, vectors)

    def merge_into_table(self) -> None:
        """Move the new vectors into each text encoder's own table, as `Vocabulary.merge_into_table` does."""
        for one in self.by_encoder.values():
            one.merge_into_table()


def split_vector_name(name: str) -> tuple[str, str]:
    """Word and encoder key in the name of a word's vectors; the key is empty for a base with one encoder."""
    word, _, key = name.partition(".")
    return word, key


def check_initializer(text: str, tokens: int, vectors: int) -> None:
    """Raise RecipeError where text, of this many tokens, cannot be the start value of this many vectors."""
    if tokens == 0:
        raise RecipeError(f"the initializer '{text}' has no token in this base's tokenizer",
                          fix="write a common word as `initializer`, such as dog")
    if tokens > vectors:
        raise RecipeError(f"the initializer '{text}' has {tokens} tokens in this base's tokenizer, allowed: at most "
                          f"{vectors}, the number of `vectors`",
                          fix=f"write `vectors: {tokens}`, or a shorter word as `initializer`")


def check_unused_tokens(names: Iterable[str], known: Container[str]) -> None:
    """Raise RecipeError where the base's tokenizer has one of the names already. known: its vocabulary."""
    taken = sorted(name for name in names if name in known)
    if taken:
        raise RecipeError(f"the base knows the word '{taken[0]}' already", fix="choose another word as `token`")


def token_names(word: str, vectors: int) -> list[str]:
    """Tokens that a word of this many vectors is read as."""
    return [word, *(f"{word}_{i}" for i in range(1, vectors))]
