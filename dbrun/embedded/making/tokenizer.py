"""CLIP tokenizer for a small word list: each of its words is one token, other words are split into letters."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 24
"""Tokens of a prompt, start and end included."""

Pair = tuple[str, str]


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """Build the tokenizer whose byte-pair merges make each word one token.

    Raises:
        ValueError: a word is not one token, or the tokenizer has another number of entries than were built.
    """
    words = tuple(words)
    merges = learn_merges(words)
    letters = byte_letters()
    entries = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    vocab = {entry: index for index, entry in enumerate(entries)}
    # transformers 5 silently builds an empty tokenizer from file names, so the tables are passed themselves
    tokenizer = CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    if len(tokenizer) != len(entries):
        raise ValueError(f"the tokenizer holds {len(tokenizer)} entries, {len(entries)} were built")
    # start mark, word, end mark
    split = [word for word in words if len(tokenizer(word)["input_ids"]) != 3]
    if split:
        raise ValueError(f"these words are more than one token: {', '.join(split)}")
    return tokenizer


def learn_merges(words: Iterable[str]) -> list[Pair]:
    """Learn byte-pair merges, the highest rank first, until every word is one symbol."""
    # a later merge ranks below all earlier ones, so a word that is one symbol stays one
    merges: list[Pair] = []
    for word in words:
        symbols = apply_merges(word, merges)
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = apply_merges(word, merges)
    return merges


def apply_merges(word: str, merges: list[Pair]) -> list[str]:
    """Symbols of a word after CLIP's byte-pair encoding with these merges; the last one ends with `</w>`."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    symbols = [*word[:-1], f"{word[-1]}</w>"]
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        symbols = _merge_pair(symbols, best)
    return symbols


def _merge_pair(symbols: list[str], pair: Pair) -> list[str]:
    """Symbols with every occurrence of the pair merged, from left to right."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def byte_letters() -> list[str]:
    """Printable characters that stand for the 256 bytes, in the order of CLIP's published vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    # bytes without a printable character get those from U+0100 on, as in GPT-2
    hidden = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + place) for place in range(len(hidden)))]
