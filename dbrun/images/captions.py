"""Captions of the pictures in a folder, read from text files, from a metadata table, or from the file names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dbrun.errors import RecipeError
from dbrun.input_file import file_exists, open_file, parse_json, read_file, undecodable

TEXT_SUFFIX = ".txt"
METADATA_FILES = ("metadata.jsonl", "metadata.csv")
EXAMPLE_ROW = '{"file_name": "dog1.jpg", "text": "a dog on grass"}'
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""Column names that may hold captions; the first one present is used."""
MAX_CAPTION_BYTES = 16 * 1024
MAX_TABLE_BYTES = 256 * 2**20
"""Largest metadata table in bytes, about a million rows."""
TOO_LONG = f"found over {MAX_CAPTION_BYTES // 1024} KiB of text, expected a prompt"
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
        # text is None where the file has a problem, which is reported below
        text = read[file]
        if text:
            texts[picture] = (text,)
    if problems:
        raise RecipeError("\n".join(sorted(problems)), fix="write the prompt into the file, or delete it")
    return FolderCaptions(texts, frozenset(read))


def captions_from_names(pictures: Sequence[str]) -> FolderCaptions:
    """Captions from the file names: words without the trailing number; a name without letters gives none."""
    words = {name: _caption_from_name(name) for name in pictures}
    texts = {name: (text,) for name, text in words.items() if re.search(r"[^\W\d]", text)}
    if not texts:
        return FolderCaptions({})
    first = next(iter(texts))
    note = f"captions are the pictures' names, such as '{texts[first][0]}' for {first}"
    return FolderCaptions(texts, notes=(note,))


def _caption_from_name(name: str) -> str:
    words = Path(name).stem.replace("_", " ").split()
    return TRAILING_NUMBER.sub("", " ".join(words)).strip()


def read_metadata(folder: Path, names: Sequence[str], column: str | None) -> FolderCaptions:
    """Read captions from metadata.jsonl or metadata.csv, which may name pictures in sub-folders. Raises RecipeError.

    names: the names in folder; column: the column of the captions, None for the first of CAPTION_COLUMNS.
    """
    tables = [name for name in METADATA_FILES if name in names]
    if len(tables) != 1:
        first, second = METADATA_FILES
        found = f"neither {first} nor {second}"
        if tables:
            found = f"both {first} and {second}"
        raise RecipeError(f"{folder}: found {found}, expected one of them",
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
            # not "last one wins": the user should say which caption is meant
            problems.append(f"{place}: {name} has a row above already")
        if name:
            texts[name] = captions
    if problems:
        lines = problems[:MAX_SHOWN_PROBLEMS]
        if len(problems) > MAX_SHOWN_PROBLEMS:
            lines.append(f"and {len(problems) - MAX_SHOWN_PROBLEMS} more")
        raise RecipeError("\n".join(lines), fix=f"correct {file.name}")
    return FolderCaptions(texts, frozenset(tables))


def _read_rows(file: Path, problems: list[str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each row with its place, `file:line`; a row that cannot be read becomes a problem."""
    try:
        # utf-8-sig: spreadsheet programs write a byte-order mark, which would join the first column's name
        text = read_file(file, MAX_TABLE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}", fix="write the table again") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: cannot be read as UTF-8 text: {error}", fix="save it again as UTF-8") from error
    if file.suffix == ".csv":
        yield from _read_csv(file, text, problems)
        return
    # not splitlines: it also ends a line at U+2028 and others, which are allowed inside a JSON string
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError:
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
    """Name of the captions' column. Raises RecipeError where the table has none."""
    columns = dict.fromkeys(name for _, row in rows for name in row)
    allowed: tuple[str, ...] = CAPTION_COLUMNS
    missing = f"none of the columns {', '.join(CAPTION_COLUMNS)}"
    if column:
        allowed = (column,)
        missing = f"no column {column!r}"
    for name in allowed:
        if name in columns:
            return name
    # rows that could not be read are the likelier cause
    if problems:
        raise RecipeError("\n".join(problems[:MAX_SHOWN_PROBLEMS]), fix=f"correct {file.name}")
    others = [name for name in columns if name and name != "file_name"]
    example = (others or ["NAME"])[0]
    raise RecipeError(f"{file}: found {missing}; there are: {', '.join(others) or 'none'}",
                      fix=f"write `captions: {{type: metadata, column: {example}}}`")


def _picture_name(row: Mapping[str, object], place: str, folder: Path, problems: list[str]) -> str | None:
    """Name of the row's picture, relative to the folder; None where it is missing or leads out of the folder."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        problems.append(f"{place}: found no `file_name`")
        return None
    # a downloaded data set is not trusted: its table must not make dbrun read other files of this machine
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name:
        problems.append(f"{place}: found {name!r}, expected a name inside of {folder}")
    elif undecodable(name) is not None:
        problems.append(f"{place}: found the name {undecodable(name)}, expected UTF-8")
    elif not file_exists(folder / path):
        problems.append(f"{place}: {name!r} is not there")
    else:
        return path.as_posix()
    return None


def _row_captions(value: object, place: str, problems: list[str]) -> tuple[str, ...]:
    """Captions of a row: one text, or several of which training draws one; empty where the row has none."""
    values: list[object] = []
    if isinstance(value, list):
        values = value
    elif value is not None:
        values = [value]
    texts = [" ".join(text.split()) for text in values if isinstance(text, str)]
    if len(texts) < len(values):
        problems.append(f"{place}: found {str(value)[:40]!r}, expected a caption, or a list of captions")
    for text in texts:
        problem = _caption_problem(text)
        if problem:
            problems.append(f"{place}: {problem}")
    return tuple(dict.fromkeys(text for text in texts if text))


def _caption_problem(text: str) -> str | None:
    """Problem of a caption, None where it has none."""
    # control characters would reach the terminal when the prompt is shown
    if not text.isprintable():
        return "found control characters, expected a prompt"
    if len(text.encode()) > MAX_CAPTION_BYTES:
        return TOO_LONG
    return None


def _read_prompt(file: Path, problems: list[str]) -> str | None:
    """Prompt in a text file; None where it cannot be read. What is wrong with it is added to problems."""
    try:
        with open_file(file) as opened:
            # never the whole file: it may be gigabytes that only end with .txt
            data = opened.read(MAX_CAPTION_BYTES + 1)
        errors = "strict"
        if len(data) > MAX_CAPTION_BYTES:
            # the limit may cut a character in two, which is not the file's fault
            errors = "ignore"
        text = " ".join(data[:MAX_CAPTION_BYTES].decode("utf-8-sig", errors).split())
    except UnicodeDecodeError as error:
        problems.append(f"{file}: found the byte 0x{error.object[error.start]:02x}, expected a prompt as UTF-8 text")
        return None
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
        return None
    problem: str | None
    if len(data) > MAX_CAPTION_BYTES:
        problem = TOO_LONG
    elif not text:
        problem = "found an empty file, expected the prompt of the picture beside it"
    else:
        problem = _caption_problem(text)
    if problem:
        problems.append(f"{file}: {problem}")
    return text
