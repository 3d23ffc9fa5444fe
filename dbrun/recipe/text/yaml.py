"""Parser of recipe text: a strict subset of YAML (no tags, anchors or merge keys), every node with its span.

It builds nodes from the parser's events instead of Python values. So each value keeps its place, scalars stay text
until a field's type reads them, and no tag can create an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dbrun.config_types import PlainScalar
from dbrun.input_file import folder_exists, open_file, path_exists
from dbrun.naming import YAML_SUFFIXES
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.spans import LINE_BREAK, InvalidRecipe, Problem, Source, Span, display_path
from dbrun.recipe.text.tree import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 256 * 1024
"""Largest recipe file in bytes."""
MAX_DEPTH = 32
"""Deepest nesting; the builder recurses, and Python's own limit would end in a traceback."""
MAX_SHOWN_RECIPES = 8
"""Recipes that an error names at most."""
TOO_DEEP = f"found more than {MAX_DEPTH} levels of nesting"
FORBIDDEN_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""All but YAML 1.2's printable characters (c-printable), without the byte order mark inside a text."""
QUOTES = ("'", '"')
ESCAPED_QUOTES = {"'": "''", '"': '\\"'}
"""Quote → how it is written inside a text in such quotes."""
CLOSING_MARKS = {"[": "]", "{": "}", "'": "'", '"': '"'}
"""Mark that opens a list, a mapping or a text → the one that closes it."""
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, which is much faster, where PyYAML was built with it."""


def read_recipe_file(path: Path, asked: Span | None = None) -> MappingNode:
    """The mapping in a recipe file. asked: span where another recipe names this file. Raises InvalidRecipe."""
    problems: list[Problem] = []
    table, _ = read_file_and_text(path, asked, problems)
    if problems:
        raise InvalidRecipe(problems)
    return table


def read_file_and_text(path: Path, asked: Span | None, problems: list[Problem]) -> tuple[MappingNode, str]:
    """The mapping in a recipe file, and the file's text.

    Problems that do not stop the parser are added to `problems`. Raises InvalidRecipe for those that do.
    """
    source, text = _read_text(path, asked)
    return parse_recipe(text, source, problems), text


def parse_recipe(text: str, source: Source, problems: list[Problem]) -> MappingNode:
    """The mapping in a recipe's text. problems, and what is raised: as `read_file_and_text`."""
    node = _parse_collecting(text, source, problems)
    if isinstance(node, MappingNode):
        return node
    span = source.span(0, 0) if node is None else node.span
    message = "found no keys such as `name: my_dog`, expected a recipe"
    raise InvalidRecipe([Problem(span, "", message, "`dbrun new NAME` writes one")])


def schema_version(path: Path) -> str | None:
    """Value of the key `schema` of a recipe file; None without that key. Raises InvalidRecipe."""
    version = read_recipe_file(path).entries.get("schema")
    if isinstance(version, ScalarNode):
        return version.value
    return None


def parse(text: str, source: Source) -> Node | None:
    """The node in a text; None for an empty text. Raises InvalidRecipe with all problems."""
    problems: list[Problem] = []
    node = _parse_collecting(text, source, problems)
    if problems:
        raise InvalidRecipe(problems)
    return node


def _parse_collecting(text: str, source: Source, problems: list[Problem]) -> Node | None:
    """As `parse`, but problems that do not stop the parser are added to `problems`."""
    check_characters(text, source)
    builder = _NodeBuilder(text, source)
    try:
        node = builder.document()
    except yaml.MarkedYAMLError as error:
        # together with the problems above it, so that one run of `validate` shows them all
        problem = _quote_problem(error, source, builder.last_quoted) or _syntax_problem(error, source)
        raise InvalidRecipe([*builder.problems, problem]) from None
    problems += builder.problems
    return node


def check_characters(text: str, source: Source) -> None:
    """Raise InvalidRecipe where a text holds control characters or broken Unicode."""
    bad = FORBIDDEN_CHARACTER.search(text)
    if bad is not None:
        span = _span_after(text[:bad.start()], source)
        raise InvalidRecipe([Problem(span, "", f"found the character U+{ord(bad[0]):04X}, which no recipe may hold")])


def _span_after(text: str, source: Source) -> Span:
    """Span of the character that follows a text at the start of the source."""
    lines = LINE_BREAK.split(text)
    return source.span(len(lines) - 1, len(lines[-1]))


def _read_text(path: Path, asked: Span | None) -> tuple[Source, str]:
    # before anything of it is read: messages quote lines, and these must never be those of a password file
    if path.suffix.lower() not in YAML_SUFFIXES and path_exists(path) and not folder_exists(path):
        message = f"{display_path(path)} is not a recipe: its name does not end with {' or '.join(YAML_SUFFIXES)}"
        raise InvalidRecipe([Problem(asked, "", message, "name a recipe, or rename the file")])
    try:
        with open_file(path) as file:
            # one byte more than allowed is enough to know
            data = file.read(MAX_BYTES + 1)
    # ValueError: a path with a null character
    except (OSError, ValueError) as error:
        raise InvalidRecipe([_read_problem(path, asked, error)]) from None
    text = decode_recipe(data, path, asked)
    return Source.from_text(text, path), text


def decode_recipe(data: bytes, path: Path, asked: Span | None = None) -> str:
    """The text of a recipe. path, asked: for messages. Raises InvalidRecipe if it is too large, or no UTF-8."""
    if len(data) > MAX_BYTES:
        raise InvalidRecipe([Problem(asked, "", f"{path} is larger than {MAX_BYTES // 1024} KiB; no recipe is")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[:error.start].decode("utf-8-sig", "replace")
        source = Source.from_text(data.decode("utf-8-sig", "replace"), path)
        message = f"found the byte 0x{data[error.start]:02x}, expected UTF-8 text"
        raise InvalidRecipe([Problem(_span_after(before, source), "", message,
                                     "save the file with the encoding UTF-8")]) from None


def _read_problem(path: Path, asked: Span | None, error: OSError | ValueError) -> Problem:
    if isinstance(error, FileNotFoundError):
        return _not_found_problem(path, asked)
    if isinstance(error, IsADirectoryError):
        return Problem(asked, "", f"{path} is a folder, expected a recipe file")
    reason = str(error)
    # without the path, which the message has already
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return Problem(asked, "", f"cannot read the recipe {str(path)!r}: {reason}")


def _not_found_problem(path: Path, asked: Span | None) -> Problem:
    """A missing recipe, with the recipe of the most similar name, or else all recipes in that folder."""
    folder = path.parent
    message = f"no such recipe: {display_path(path)}"
    # `dbrun new` writes into recipes/ where there is one
    found = [*sorted(folder.glob("*.y*ml")), *sorted((folder / "recipes").glob("*.y*ml"))]
    files = [file for file in found if file.is_file()]
    if not files:
        return Problem(asked, "", f"{message}; no recipes in {display_path(folder)}", "dbrun new my_dog")
    near = nearest(path.stem, [file.stem for file in files])
    for file in files:
        if file.stem == near:
            return Problem(asked, "", f"{message}; did you mean '{display_path(file)}'?")
    names = ", ".join(str(file.relative_to(folder)) for file in files[:MAX_SHOWN_RECIPES])
    more = f" and {len(files) - MAX_SHOWN_RECIPES} more" if len(files) > MAX_SHOWN_RECIPES else ""
    return Problem(asked, "", f"{message}; recipes in that folder: {names}{more}")


class _NodeBuilder:
    """One pass over the YAML events of a text; problems that do not stop it are collected."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.has_refused_alias = False
        self.last_quoted: Any = None
        """Event of the last scalar in quotes; None before the first."""
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=LOADER))

    def document(self) -> Node | None:
        """The node of the only document; None for an empty text."""
        node: Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if node is not None:
                    self._refuse(event, "found a second document, expected one recipe in a file")
                    break
                node = self._node(next(self.events), 0)
        return node

    def _node(self, event: Any, depth: int) -> Node:
        place = self._span(event)
        if depth > MAX_DEPTH:
            raise InvalidRecipe([*self.problems, Problem(place, "", TOO_DEEP)])
        if isinstance(event, yaml.AliasEvent):
            self._refuse_alias(event, f"the alias '*{event.anchor}'")
            return ScalarNode(PlainScalar(), place)
        if event.anchor:
            self._refuse_alias(event, f"the anchor '&{event.anchor}'")
        # a tag would decide the type, which is the schema's decision
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"found the tag '{tag}'; recipes have no tags",
                         "remove the tag; put text in quotes")
        if isinstance(event, yaml.ScalarEvent):
            if event.style in QUOTES:
                self.last_quoted = event
            # style is None for a scalar without quotes or block markers
            return ScalarNode(event.value if event.style else PlainScalar(event.value), place)
        if isinstance(event, yaml.SequenceStartEvent):
            values = [self._node(inner, depth + 1) for inner in self._events_until(yaml.SequenceEndEvent)]
            return SequenceNode(tuple(values), place)
        return self._mapping(place, depth)

    def _events_until(self, end: type) -> Iterator[Any]:
        """First events of the items up to the end event of a list or a mapping; the caller consumes the rest of each.
        """
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def _mapping(self, place: Span, depth: int) -> MappingNode:
        entries: dict[str, Node] = {}
        keys: dict[str, Span] = {}
        for event in self._events_until(yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self.events), depth + 1)
            if not isinstance(key, ScalarNode):
                self._refuse(event, "found a list or a mapping as a key, expected a word")
            elif not key.value:
                self._refuse(event, "found nothing before ':', expected a key")
            elif key.value == "<<":
                self._refuse(event, "found the merge key '<<'; recipes have none",
                             "`extends: other.yaml` builds on another file")
            elif key.value in keys:
                message = f"found the key twice, first in line {keys[key.value].line}"
                self.problems.append(Problem(key.span, str(key.value), message, "keep one of them"))
            else:
                name = str(key.value)
                entries[name], keys[name] = value, key.span
        return MappingNode(entries, keys, place)

    def _span(self, event: Any) -> Span:
        start, end = event.start_mark, event.end_mark
        length = 1
        if end.line == start.line:
            length = end.column - start.column
        return self.source.span(start.line, start.column, length)

    def _refuse_alias(self, event: Any, what: str) -> None:
        """Add a problem for the first anchor or alias only: a text can hold thousands of them."""
        if not self.has_refused_alias:
            self._refuse(event, f"found {what}; recipes have neither anchors nor aliases",
                         "write a reference such as ${train.steps} in its place")
        self.has_refused_alias = True

    def _refuse(self, event: Any, message: str, fix: str | None = None) -> None:
        self.problems.append(Problem(self._span(event), "", message, fix))


def _syntax_problem(error: yaml.MarkedYAMLError, source: Source) -> Problem:
    """libyaml's error in plain words, with the usual cause and its fix."""
    place = _error_span(error, source)
    reason = error.problem or error.context or str(error)
    rest = place.text[place.column - 1:]
    if "nesting depth" in reason:
        return Problem(place, "", TOO_DEEP)
    if "cannot start any token" in reason:
        if rest.startswith("\t") or "\t" in place.text[:place.column]:
            return Problem(place, "", "found a tab, expected spaces", "indent with spaces")
        return Problem(place, "", f"found {rest[:1]!r} at the start of a value", "put the text in quotes")
    if "mapping values are not allowed" in reason:
        return Problem(place, "", "found a second ': ' in a value, or a wrong indentation",
                       "put text that contains ': ' in quotes, and indent all keys of one level equally")
    if "unknown escape" in reason or "hexdecimal" in reason:
        # the parsers point at the backslash or behind it
        start = place.text.rfind("\\", 0, place.column + 1)
        wrong = place.text[start:start + 2]
        place = replace(place, column=start + 1, length=2)
        return Problem(place, "", f"found {wrong} in double quotes, where a backslash begins an escape",
                       f"put the text in single quotes, or write \\{wrong}; in a path, / does as well")
    if "${" in place.text and "{" in place.text.replace("${", ""):
        return Problem(place, "", f"not YAML: {reason}", 'in { } a reference needs quotes: "${train.steps}"')
    unclosed = _unclosed_problem(error, source)
    if unclosed is not None:
        return unclosed
    if error.context and error.problem:
        reason = f"{reason} {error.context}"
    fix = "look at this line and the one above: indentation, quotes, brackets"
    # a word of the command line has neither indentation nor a line above
    if source.file is None:
        fix = "look at its quotes and brackets"
    return Problem(place, "", f"not YAML: {reason}", fix)


def _unclosed_problem(error: yaml.MarkedYAMLError, source: Source) -> Problem | None:
    """A bracket or quote that is never closed, told where it opens; None for any other error."""
    start = error.context_mark
    # the parser stops where the text no longer fits, which can be many lines below
    if start is None or start.line >= len(source.lines):
        return None
    place = source.span(start.line, start.column)
    mark = place.text[place.column - 1:place.column]
    closing = CLOSING_MARKS.get(mark)
    if closing is None:
        return None
    if mark in QUOTES:
        return Problem(place, "", f"found the quote {mark} that is never closed", f"close it with another {mark}")
    where = ""
    if error.problem_mark and error.problem_mark.line > start.line and source.file is not None:
        where = f" up to line {error.problem_mark.line + 1}"
    return Problem(place, "", f"found {mark} that is not closed{where}; expected ',' or '{closing}'",
                   f"close it with {closing}, and put a comma between its items")


def _quote_problem(error: yaml.MarkedYAMLError, source: Source, quoted: Any) -> Problem | None:
    """Text behind a closing quote; None for any other error. quoted: event of the last scalar in quotes, or None."""
    mark = error.problem_mark
    if quoted is None or mark is None or mark.line != quoted.end_mark.line or mark.line >= len(source.lines):
        return None
    offset = source.offset if mark.line == 0 else 0
    between = source.lines[mark.line][quoted.end_mark.column + offset:mark.column + offset]
    if mark.column < quoted.end_mark.column or between.strip():
        return None
    start = quoted.start_mark
    if start.line < mark.line:
        place = source.span(start.line, start.column)
        return Problem(place, "", f"found the quote {quoted.style} that is closed only in line {mark.line + 1}",
                       f"close it with {quoted.style} where its text ends")
    return Problem(source.span(mark.line, mark.column), "", "found more text behind a closing quote",
                   f"write {quoted.style} inside the text as {ESCAPED_QUOTES[quoted.style]}, or use the other quotes")


def _error_span(error: yaml.MarkedYAMLError, source: Source) -> Span:
    """Span of a parser error: the first mark that points at some text, since one at the end of a file shows nothing."""
    marks = [mark for mark in (error.problem_mark, error.context_mark) if mark]
    spans = [source.span(mark.line, mark.column) for mark in marks]
    for span in spans:
        if span.text[span.column - 1:].strip():
            return span
    if spans:
        return spans[0]
    return source.span(0, 0)
