"""How many columns of a terminal does a text take, and where is it cut to fit?"""

from __future__ import annotations

import unicodedata

HANGUL_JAMO = range(0x1160, 0x1200)
"""Vowels and final consonants of Hangul taken apart, as macOS does in file names: they join the letter before them."""


def cell_width(text: str) -> int:
    """Columns of a text without control characters: East Asian characters and emoji take two, marks none."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def fit_to_width(text: str, room: int) -> int:
    """How many of the first characters of text fit into so many columns."""
    if text.isascii():
        return min(len(text), room)
    taken = 0
    for number, character in enumerate(text):
        taken += _character_width(character)
        if taken > room:
            return number
    return len(text)


def _character_width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or ord(character) in HANGUL_JAMO:
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
