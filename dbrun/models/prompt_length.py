"""How many tokens is a prompt, and which of its words does a base no longer read?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MAX_SHOWN_CHARACTERS = 50
"""Characters of a prompt that are told."""


class TruncatedPrompt(NamedTuple):
    """A prompt that is too long. token_count: how many it has; cut_off: what of it is not read."""

    prompt: str
    token_count: int
    cut_off: str

    def message(self, limit: int) -> str:
        """The same for a person. limit: tokens that the base reads."""
        return (f"the base reads {limit} tokens, '{_shorten(self.prompt)}' has {self.token_count}, and "
                f"'{_shorten(self.cut_off)}' is cut off")


def _shorten(text: str) -> str:
    """So much of a text that it is known again."""
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS - 1].rstrip()}…"


def may_be_truncated(prompt: str, limit: int) -> bool:
    """Whether a prompt can have more tokens than these: each is at least one byte."""
    return len("".join(prompt.split()).encode()) > limit


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a base's folder as its own library reads it, which neither cuts nor pads.

    None where the base has it in another form.
    """
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def find_truncated(tokenizer: Tokenizer, prompts: Iterable[str], limit: int, word: str | None = None,
                   vectors: int = 1) -> list[TruncatedPrompt]:
    """The prompts with more tokens than limit. word: one that is read as so many vectors, whatever its letters."""
    found = []
    for prompt in prompts:
        extra = vectors * prompt.count(word) if word else 0
        plain = prompt.replace(word, " ") if word else prompt
        read = tokenizer.encode(plain, add_special_tokens=False)
        if len(read.ids) + extra > limit:
            first = read.offsets[max(0, limit - extra)][0] if limit > extra else 0
            found.append(TruncatedPrompt(prompt, len(read.ids) + extra, " ".join(plain[first:].split())))
    return found
