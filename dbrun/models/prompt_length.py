"""Prompts that are longer than the base reads: counted in tokens, with the words that are cut off."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dbrun.errors import RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MAX_SHOWN_CHARACTERS = 50
"""Characters of a prompt that a message shows."""


class PromptLimit(NamedTuple):
    """How much of a prompt a text encoder reads.

    tokenizer: its name in model_index.json; tokens: the most that are read, marks and template not counted; reader: who
    reads, for messages; rest_is_read: whether another text encoder reads what this one does not.
    """

    tokenizer: str
    tokens: int
    reader: str = "the base"
    rest_is_read: bool = False


class TruncatedPrompt(NamedTuple):
    """Prompt with too many tokens. token_count: how many it has; cut_off: its end, which the base does not read."""

    prompt: str
    token_count: int
    cut_off: str

    def message(self, limit: PromptLimit) -> str:
        """One line for a person. limit: the one that the prompt exceeds."""
        lost = "is read by the other text encoder alone" if limit.rest_is_read else "is cut off"
        return (f"{limit.reader} reads {limit.tokens} tokens, '{_shorten(self.prompt)}' has {self.token_count}, and "
                f"'{_shorten(self.cut_off)}' {lost}")


def _shorten(text: str) -> str:
    """Beginning of a text, long enough to recognise it."""
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS - 1].rstrip()}…"


def may_be_truncated(prompt: str, limit: int) -> bool:
    """Whether a prompt might have more than limit tokens; a cheap test that needs no tokenizer."""
    # every token covers at least one byte that is not white space
    return len("".join(prompt.split()).encode()) > limit


def load_tokenizer(folder: Path, name: str = "tokenizer") -> Tokenizer | None:
    """Tokenizer of the base in folder, set to neither truncate nor pad; None where there is no tokenizer.json.

    name: its name in model_index.json.
    """
    # the library `tokenizers` alone: importing transformers would cost a plan seconds
    file = folder / name / "tokenizer.json"
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    # the library raises nothing more precise
    except Exception as error:
        raise RecipeError(f"{file} of the base cannot be read: {error}", fix="fetch the base again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_any_tokenizer(folder: Path, name: str) -> Tokenizer:
    """Tokenizer as `load_tokenizer`, made by transformers where there is no tokenizer.json."""
    tokenizer = load_tokenizer(folder, name)
    if tokenizer is not None:
        return tokenizer
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder / name, local_files_only=True, trust_remote_code=False)
    converted: Tokenizer = loaded.backend_tokenizer
    return converted


def find_truncated(tokenizer: Tokenizer, prompts: Iterable[str], limit: int, word: str | None = None,
                   vectors: int = 1) -> list[TruncatedPrompt]:
    """Prompts with more than limit tokens. word: a new word, which takes `vectors` tokens wherever it stands."""
    truncated = []
    for prompt in prompts:
        # the new word is not in the tokenizer yet, which would split it into its letters
        word_tokens, plain = 0, prompt
        if word:
            word_tokens = vectors * prompt.count(word)
            plain = prompt.replace(word, " ")
        encoding = tokenizer.encode(plain, add_special_tokens=False)
        token_count = len(encoding.ids) + word_tokens
        if token_count <= limit:
            continue
        first_unread = 0
        if limit > word_tokens:
            first_unread = encoding.offsets[limit - word_tokens][0]
        truncated.append(TruncatedPrompt(prompt, token_count, " ".join(plain[first_unread:].split())))
    return truncated
