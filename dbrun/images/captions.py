"""Captions of the pictures in a folder: from text files, from a table of metadata, or from the names themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dbrun.errors import RecipeError

TEXT_SUFFIX = ".txt"
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
EXAMPLE_ROW = '{"file_name": "dog1.jpg", "text": "a dog on grass"}'
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""Columns that hold captions; the first that is there."""
MAX_CAPTION_BYTES = 16 * 1024
TOO_LONG = f"found over {MAX_CAPTION_BYTES // 1024} KiB of text, expected a prompt"
TRAILING_NUMBER = re.compile(r"\s*\(\d+\)$|[\s-]+\d+$")
"""What people and cameras put behind a name to tell pictures apart."""
MAX_SHOWN_PROBLEMS = 10
"""Problems that are told one by one."""


@dataclass(frozen=True)
class FolderCaptions:
    """What was read. captions: name of a picture, relative to the folder → its captions;
    used_names: other names read."""

    captions: Mapping[str, tuple[str, ...]]
    used_names: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_sidecars(folder: Path, pictures: Sequence[str], names: Sequence[str]) -> FolderCaptions:
    """The text files beside pictures, such as dog1.txt for dog1.jpg. Raises RecipeError that names each bad one."""
    present = set(names)
    problems: list[str] = []
    # dog1.jpg and dog1.png share dog1.txt, which is read once
    read: dict[str, str | None] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for picture in pictures:
        file = picture.rpartition(".")[0] + TEXT_SUFFIX
        if file not in present:
            continue
        if file not in read:
            read[file] = _read_prompt(folder / file, problems)
        text = read[file]
        if text:
            texts[picture] = (text,)
    if problems:
        raise RecipeError("\n".join(sorted(problems)), fix="write the prompt into the file, or delete it")
    return FolderCaptions(texts, frozenset(read))


def captions_from_names(pictures: Sequence[str]) -> FolderCaptions:
    """The names in words, without the number behind them; a name of digits alone says nothing."""
    said = {name: _caption_from_name(name) for name in pictures}
    texts = {name: (text,) for name, text in said.items() if re.search(r"[^\W\d]", text)}
    if not texts:
        return FolderCaptions({})
    first = next(iter(texts))
    note = f"captions are the pictures' names, such as '{texts[first][0]}' for {first}"
    return FolderCaptions(texts, notes=(note,))


def _caption_from_name(name: str) -> str:
    words = Path(name).stem.replace("_", " ").split()
    return TRAILING_NUMBER.sub("", " ".join(words)).strip()


def read_metadata(folder: Path, names: Sequence[str], column: str | None) -> FolderCaptions:
    """The captions in metadata.jsonl or metadata.csv, which may name pictures in folders below. Raises RecipeError."""
    tables = [name for name in METADATA_FILES if name in names]
    if len(tables) != 1:
        found = " and ".join(tables) or "neither"
        raise RecipeError(f"{folder}: found {found} of {' and '.join(METADATA_FILES)}, expected one of them",
                          fix=f"write a line such as {EXAMPLE_ROW} for each picture into {METADATA_FILES[0]}, or "
                              "choose another `captions.type`")
    file = folder / tables[0]
    problems: list[str] = []
    rows = list(_read_rows(file, problems))
    chosen = _caption_column(rows, column, file, problems)
    texts: dict[str, tuple[str, ...]] = {}
    for place, row in rows:
        name = _picture_name(row, place, folder, problems)
        captions = _row_captions(row.get(chosen), place, problems)
        if name in texts:
            problems.append(f"{place}: {name} has a row above already")
        if name:
            texts[name] = captions
    if problems:
        more = f"\nand {len(problems) - MAX_SHOWN_PROBLEMS} more" if len(problems) > MAX_SHOWN_PROBLEMS else ""
        raise RecipeError("\n".join(problems[:MAX_SHOWN_PROBLEMS]) + more, fix=f"mend {file.name}")
    return FolderCaptions(texts, frozenset(tables))


def _read_rows(file: Path, problems: list[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Each row with its place, `file:line`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read as UTF-8 text: {error}", fix="save it again as UTF-8") from error
    if file.suffix == ".csv":
        yield from _read_csv(file, text, problems)
        return
    # not splitlines, for which a line may end where JSON's does not
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            yield f"{file}:{number}", row
        else:
            problems.append(f"{file}:{number}: found {line[:40]!r}, expected a JSON object")


def _read_csv(file: Path, text: str, problems: list[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    import csv
    from io import StringIO

    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        for row in reader:
            yield f"{file}:{reader.line_num}", row
    except csv.Error as error:
        problems.append(f"{file}:{reader.line_num}: {error}")


def _caption_column(rows: Sequence[tuple[str, Mapping[str, object]]], column: str | None, file: Path,
                    problems: Sequence[str]) -> str:
    there = dict.fromkeys(name for _, row in rows for name in row)
    for name in (column,) if column else CAPTION_COLUMNS:
        if name in there:
            return name
    if problems:
        raise RecipeError("\n".join(problems[:MAX_SHOWN_PROBLEMS]), fix=f"mend {file.name}")
    wanted = f"no column {column!r}" if column else f"none of the columns {', '.join(CAPTION_COLUMNS)}"
    others = [name for name in there if name and name != "file_name"]
    raise RecipeError(f"{file}: found {wanted}; there are: {', '.join(others) or 'none'}",
                      fix=f"write `captions: {{type: metadata, column: {others[0] if others else 'NAME'}}}`")


def _picture_name(row: Mapping[str, object], place: str, folder: Path, problems: list[str]) -> str | None:
    """The picture's name, relative to the folder; never one that leads out of it."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        problems.append(f"{place}: found no `file_name`")
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name:
        problems.append(f"{place}: found {name!r}, expected a name inside of {folder}")
    elif not (folder / path).is_file():
        problems.append(f"{place}: {name!r} is not there")
    else:
        return path.as_posix()
    return None


def _row_captions(value: object, place: str, problems: list[str]) -> tuple[str, ...]:
    """A text, or several of which training draws one; none where there is nothing."""
    given: list[object] = []
    if isinstance(value, list):
        given = value
    elif value is not None:
        given = [value]
    texts = [" ".join(text.split()) for text in given if isinstance(text, str)]
    if len(texts) < len(given):
        problems.append(f"{place}: found {str(value)[:40]!r}, expected a caption, or a list of captions")
    for text in texts:
        wrong = _caption_problem(text)
        if wrong:
            problems.append(f"{place}: {wrong}")
    return tuple(dict.fromkeys(text for text in texts if text))


def _caption_problem(text: str) -> str | None:
    """What is wrong with a caption, None where nothing is."""
    if not text.isprintable():
        return "found control characters, expected a prompt"
    return TOO_LONG if len(text.encode()) > MAX_CAPTION_BYTES else None


def _read_prompt(file: Path, problems: list[str]) -> str | None:
    """The prompt in a text file; what is wrong with it becomes a problem."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_CAPTION_BYTES + 1)
        # a character that the limit cuts in two is no fault of the file
        errors = "strict" if len(data) <= MAX_CAPTION_BYTES else "ignore"
        text = " ".join(data[:MAX_CAPTION_BYTES].decode("utf-8-sig", errors).split())
    except UnicodeDecodeError as error:
        problems.append(f"{file}: found the byte 0x{error.object[error.start]:02x}, expected a prompt as UTF-8 text")
        return None
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return None
    wrong: str | None
    if len(data) > MAX_CAPTION_BYTES:
        wrong = TOO_LONG
    elif not text:
        wrong = "found an empty file, expected the prompt of the picture beside it"
    else:
        wrong = _caption_problem(text)
    if wrong:
        problems.append(f"{file}: {wrong}")
    return text
