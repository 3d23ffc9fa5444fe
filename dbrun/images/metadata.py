"""Captions in a metadata table beside the pictures, in the format of the Hub's imagefolder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from dbrun.errors import RecipeError
from dbrun.images.beside import NamesOfFolder
from dbrun.images.captions import (
    EMPTY_CAPTION,
    FolderCaptions,
    caption_problem,
    encoding_problem,
    join_words,
    raise_problems,
)
from dbrun.input_file import file_exists, parse_json, read_file, undecodable
from dbrun.naming import file_name_key

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
EXAMPLE_ROW = '{"file_name": "dog1.jpg", "text": "a dog on grass"}'
FILE_COLUMN = "file_name"
"""Column with the pictures' names."""
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""Column names that may hold captions; the first one present is used."""
MAX_TABLE_BYTES = 256 * 2**20
"""Largest metadata table in bytes, about a million rows."""
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""Separator that spreadsheet programs write in place of a comma → its name."""

LINE_END = re.compile("\r\n|\r|\n")
Row = tuple[str, Mapping[str, object]]
"""A row's place, `file:line`, and its values by column."""


def metadata_files(names: Iterable[str]) -> list[str]:
    """Those of the names that are a metadata table, whatever their case."""
    return [name for name in names if file_name_key(name) in METADATA_FILES]


def read_metadata(folder: Path, names: Sequence[str], column: str | None) -> FolderCaptions:
    """Read captions from metadata.jsonl or metadata.csv, which may name pictures in sub-folders. Raises RecipeError.

    names: the names in folder; column: the column of the captions, None for the first of CAPTION_COLUMNS.
    """
    tables = metadata_files(names)
    if len(tables) != 1:
        found = f"neither {' nor '.join(METADATA_FILES)}"
        if tables:
            found = f"both {' and '.join(tables)}"
        raise RecipeError(f"{folder}: found {found}, expected one of them",
                          fix=f"write a line such as {EXAMPLE_ROW} for each picture into {METADATA_FILES[0]}, or "
                              "choose another `captions.type`")
    file = folder / tables[0]
    problems: list[str] = []
    rows = list(_read_rows(file, problems))
    chosen = _caption_column(rows, column, file, problems)
    files = _FilesBelow(folder)
    texts: dict[str, tuple[str, ...]] = {}
    for place, row in rows:
        name = _picture_name(row, place, files, problems)
        captions: tuple[str, ...] = ()
        if chosen in row:
            captions = _row_captions(row[chosen], place, problems)
        else:
            others = ", ".join(key for key in row if key != FILE_COLUMN)
            problems.append(f"{place}: found no `{chosen}`, the column of the captions; there are: {others or 'none'}")
        if name in texts:
            # not "last one wins": the user should say which caption is meant
            problems.append(f"{place}: {name} has a row above already")
        if name:
            texts[name] = captions
    raise_problems(problems, f"correct {file.name}")
    return FolderCaptions(texts, frozenset(tables))


def _read_rows(file: Path, problems: list[str]) -> Iterator[Row]:
    """Yield each row; one that cannot be read becomes a problem."""
    try:
        # utf-8-sig: spreadsheet programs write a byte-order mark, which would join the first column's name
        text = read_file(file, MAX_TABLE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(encoding_problem(file, error), fix="save it again as UTF-8") from error
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror}", fix="write the table again") from error
    if file.suffix.lower() == ".csv":
        yield from _read_csv(file, text, problems)
        return
    # not splitlines: it also ends a line at U+2028 and others, which are allowed inside a JSON string
    for number, line in enumerate(LINE_END.split(text), 1):
        if not line.strip():
            continue
        place = f"{file}:{number}"
        try:
            row = parse_json(line, object_pairs_hook=_object)
        except _Repeated as error:
            problems.append(f"{place}: {error}")
            continue
        except ValueError:
            row = None
        if not isinstance(row, dict):
            problems.append(f"{place}: found {line[:40]!r}, expected a JSON object")
            continue
        wrong = _column_problem(list(row))
        if wrong:
            problems.append(f"{place}: {wrong}")
        else:
            yield place, row


class _Repeated(ValueError):
    """A JSON object has a key twice; Python's reader would keep the last value in silence."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    wrong = _column_problem([key for key, _ in pairs])
    if wrong:
        raise _Repeated(wrong)
    return dict(pairs)


def _column_problem(columns: Sequence[str]) -> str | None:
    """Problem of a row's column names: blanks around one, or one twice."""
    for number, column in enumerate(columns):
        if column != column.strip():
            return f"found the column {column!r} with blanks around its name, expected {column.strip()!r}"
        if column in columns[:number]:
            return f"found the column {column!r} twice"
    return None


def _read_csv(file: Path, text: str, problems: list[str]) -> Iterator[Row]:
    """Yield the rows below the header; every row has as many fields as that has columns."""
    import csv
    from io import StringIO

    # strict: without it a quote that is left open takes in all rows below, in silence
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    header: list[str] = []
    line = 1
    try:
        for fields in reader:
            # a quoted field may hold line ends, so that a row has several lines; people look for the first
            place, line = f"{file}:{line}", reader.line_num + 1
            if not "".join(fields).strip() and len(fields) < 2:
                continue
            if not header:
                header = fields
                wrong = _header_problem(header)
                if wrong:
                    problems.append(f"{place}: {wrong}")
                    return
            elif len(fields) == len(header):
                yield place, dict(zip(header, fields, strict=True))
            else:
                problems.append(f"{place}: found {len(fields)} fields, expected {len(header)} as in the first row; a "
                                "text with a comma needs quotes around it")
    except csv.Error as error:
        problems.append(f"{file}:{line}: this row is not valid CSV: {error}; is a quote left open? (A quote in a "
                        "quoted text is written twice.)")


def _header_problem(header: Sequence[str]) -> str | None:
    """Problem of the first row of a CSV table, None where it has none."""
    for separator, name in OTHER_SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            return f"found {name} between the columns, expected commas"
    wrong = _column_problem(header)
    if wrong is None and FILE_COLUMN not in header:
        # repr: a byte-order mark in a name is invisible
        return f"found no column `{FILE_COLUMN}`; there are: {', '.join(map(repr, header))}"
    return wrong


def _caption_column(rows: Sequence[Row], column: str | None, file: Path, problems: Sequence[str]) -> str:
    """Name of the captions' column. Raises RecipeError where the table has none."""
    if not rows:
        raise_problems(problems, f"correct {file.name}")
        raise RecipeError(f"{file}: found no rows",
                          fix="write a row for each picture, or choose another `captions.type`")
    columns: dict[str, None] = {}
    for _, row in rows:
        columns.update(dict.fromkeys(row))
    allowed: tuple[str, ...] = CAPTION_COLUMNS
    missing = f"none of the columns {', '.join(CAPTION_COLUMNS)}"
    if column:
        allowed = (column,)
        missing = f"no column {column!r}"
    for name in allowed:
        if name in columns:
            return name
    # rows that could not be read are the likelier cause
    raise_problems(problems, f"correct {file.name}")
    others = [name for name in columns if name and name != FILE_COLUMN]
    example = (others or ["NAME"])[0]
    raise RecipeError(f"{file}: found {missing}; there are: {', '.join(others) or 'none'}",
                      fix=f"write `captions: {{type: metadata, column: {example}}}`")


class _FilesBelow:
    """Files in a folder and below it, found by name whatever its case and Unicode form; each folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[PurePosixPath, NamesOfFolder] = {}

    def find(self, path: PurePosixPath) -> list[PurePosixPath]:
        """Files of this name, relative to the folder; the exact one alone where it is there."""
        found = [PurePosixPath()]
        for part in path.parts:
            below: list[PurePosixPath] = []
            for parent in found:
                names = self._names(parent).same_names(part)
                if part in names:
                    names = [part]
                below += [parent / name for name in names]
            found = below
        return [file for file in found if file_exists(self.folder / file)]

    def _names(self, parent: PurePosixPath) -> NamesOfFolder:
        if parent not in self._listed:
            try:
                names = sorted(path.name for path in (self.folder / parent).iterdir())
            except OSError:
                names = []
            self._listed[parent] = NamesOfFolder(names)
        return self._listed[parent]


def _picture_name(row: Mapping[str, object], place: str, files: _FilesBelow, problems: list[str]) -> str | None:
    """Name of the row's picture, relative to the folder; None where it is missing or leads out of the folder."""
    name = row.get(FILE_COLUMN)
    if not isinstance(name, str) or not name:
        problems.append(f"{place}: found no `{FILE_COLUMN}`")
        return None
    # a downloaded data set is not trusted: its table must not make dbrun read other files of this machine
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name:
        problems.append(f"{place}: found {name!r}, expected a name inside of {files.folder}")
        return None
    wrong = undecodable(name)
    if wrong is not None:
        problems.append(f"{place}: found the name {wrong}, expected UTF-8")
        return None
    found = files.find(path)
    if len(found) == 1:
        return found[0].as_posix()
    if found:
        problems.append(f"{place}: {name!r} may be {' or '.join(map(str, found))}, whose names differ only in case or "
                        "Unicode form")
    else:
        problems.append(f"{place}: {name!r} is not there")
    return None


def _row_captions(value: object, place: str, problems: list[str]) -> tuple[str, ...]:
    """Captions of a row: one text, or several of which training draws one."""
    values: list[object] = [value]
    if isinstance(value, list) and value:
        values = value
    texts: list[str] = []
    for one in values:
        wrong: str | None = None
        if one is None or one == [] or (isinstance(one, str) and not one.strip()):
            wrong = f"{EMPTY_CAPTION}; without its row, the picture has the instance prompt"
        elif not isinstance(one, str):
            wrong = f"found {str(value)[:40]!r}, expected a caption, or a list of captions"
        else:
            wrong = caption_problem(one)
            texts.append(join_words(one))
        if wrong:
            problems.append(f"{place}: {wrong}")
    return tuple(dict.fromkeys(texts))
