"""Captions of the pictures in a folder, read from text files or from the file names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images.beside import match_beside, stem_of
from dbrun.input_file import open_file
from dbrun.naming import forbidden_in_prompt

TEXT_SUFFIX = ".txt"
MAX_CAPTION_BYTES = 16 * 1024
TOO_LONG = f"found over {MAX_CAPTION_BYTES // 1024} KiB of text, expected a prompt"
EMPTY_CAPTION = "found an empty caption, expected a prompt"
TRAILING_NUMBER = re.compile(r"\s*\(\d+\)$|[\s-]+\d+$")
"""Number that people and cameras put behind a name to tell pictures apart."""
MAX_SHOWN_PROBLEMS = 10
"""Most problems that one message lists."""


@dataclass(frozen=True)
class FolderCaptions:
    """Captions of a folder. captions: picture's name, relative to the folder → its captions; used_names: other files
    that were read; notes: remarks for the user."""

    captions: Mapping[str, tuple[str, ...]]
    used_names: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_sidecars(folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
    """Read the text files beside pictures, such as dog1.txt for dog1.jpg. Raises one RecipeError for all bad ones."""
    texts_there = [name for name in names if name.lower().endswith(TEXT_SUFFIX)]
    unclear: list[str] = []
    file_of = match_beside([stem_of(picture) for picture in pictures], texts_there, TEXT_SUFFIX, unclear)
    raise_problems([f"{folder}: {problem}" for problem in unclear], "rename one of them, or delete it")
    problems: list[str] = []
    # dog1.jpg and dog1.png share dog1.txt, which is read once
    prompt_of = {file: _read_prompt(folder / file, problems) for file in sorted(set(file_of.values()))}
    raise_problems(problems, "write the prompt into the file, or delete it")
    texts: dict[str, tuple[str, ...]] = {}
    for picture in pictures:
        stem = stem_of(picture)
        if stem in file_of:
            texts[picture] = (prompt_of[file_of[stem]],)
    return FolderCaptions(texts, frozenset(prompt_of))


def captions_from_names(folder: Path, pictures: Sequence[str]) -> FolderCaptions:
    """Captions from the file names: words without the trailing number; a name without letters gives none.

    Raises one RecipeError for all names with a character that no prompt may hold.
    """
    words = {name: _caption_from_name(name) for name in pictures}
    texts = {name: (text,) for name, text in words.items() if re.search(r"[^\W\d]", text)}
    problems: list[str] = []
    for name in texts:
        # the name as it is written: some controls are white space to `split`
        wrong = caption_problem(stem_of(name))
        if wrong:
            problems.append(f"{folder / name}: {wrong}")
    raise_problems(problems, "rename the picture, or choose another `captions.type`")
    if not texts:
        return FolderCaptions({})
    first = next(iter(texts))
    note = f"captions are the pictures' names, such as '{texts[first][0]}' for {first}"
    return FolderCaptions(texts, notes=(note,))


def _caption_from_name(name: str) -> str:
    # the file system chooses the Unicode form of a name, not the user; the prompt must not depend on it
    words = unicodedata.normalize("NFC", Path(name).stem).replace("_", " ")
    return TRAILING_NUMBER.sub("", join_words(words)).strip()


def join_words(text: str) -> str:
    """Words of a text with one blank between them."""
    return " ".join(text.split())


def raise_problems(problems: Sequence[str], fix: str) -> None:
    """Raise RecipeError with the first MAX_SHOWN_PROBLEMS problems, if there are any."""
    lines = list(problems[:MAX_SHOWN_PROBLEMS])
    if len(problems) > MAX_SHOWN_PROBLEMS:
        lines.append(f"and {len(problems) - MAX_SHOWN_PROBLEMS} more")
    if lines:
        raise RecipeError("\n".join(lines), fix=fix)


def caption_problem(text: str) -> str | None:
    """Problem of a caption as it is written, None where it has none. One rule for texts, tables and names."""
    if not text.strip():
        return EMPTY_CAPTION
    bad = forbidden_in_prompt(text)
    if bad:
        return f"found {bad}, which no prompt may hold"
    if len(text.encode()) > MAX_CAPTION_BYTES:
        return TOO_LONG
    return None


def encoding_problem(file: Path, error: UnicodeDecodeError) -> str:
    """Problem of a file that is not UTF-8, with the line of the first wrong byte."""
    line = error.object[:error.start].count(b"\n") + 1
    return f"{file}:{line}: found the byte 0x{error.object[error.start]:02x}, expected UTF-8 text"


def _read_prompt(file: Path, problems: list[str]) -> str:
    """Prompt in a text file; empty where it cannot be read. What is wrong with it is added to problems."""
    try:
        with open_file(file) as opened:
            # never the whole file: it may be gigabytes that only end with .txt
            data = opened.read(MAX_CAPTION_BYTES + 1)
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return ""
    if len(data) > MAX_CAPTION_BYTES:
        problems.append(f"{file}:1: {TOO_LONG}")
        return ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(encoding_problem(file, error))
        return ""
    # line by line, so that the place of a forbidden character is that of its line
    for number, line_text in enumerate(text.split("\n"), 1):
        wrong = caption_problem(line_text) if line_text.strip() else None
        if wrong:
            problems.append(f"{file}:{number}: {wrong}")
    if not text.strip():
        problems.append(f"{file}:1: found an empty file, expected the prompt of the picture beside it")
    return join_words(text)
