"""How a recipe's text becomes nodes: strict YAML, every key with its place, nothing that surprises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dbrun.config_types import PlainScalar
from dbrun.recipe.text.spans import LINE_BREAK, InvalidRecipe, Problem, Source, Span, display_path
from dbrun.recipe.text.tree import MappingNode, Node, ScalarNode, SequenceNode

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
TOO_DEEP = f"found more than {MAX_DEPTH} levels of nesting"
FORBIDDEN_CHARACTER = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_recipe_file(path: Path, asked: Span | None = None) -> MappingNode:
    """The mapping in a recipe file. asked: where another recipe names this file. Raises InvalidRecipe."""
    problems: list[Problem] = []
    table, _ = read_file_and_text(path, asked, problems)
    if problems:
        raise InvalidRecipe(problems)
    return table


def read_file_and_text(path: Path, asked: Span | None, problems: list[Problem]) -> tuple[MappingNode, str]:
    """As `read_recipe_file`, and the text itself; what is wrong and does not stop the reading is noted.
    Raises InvalidRecipe."""
    source, text = _read_text(path, asked)
    node = _parse_collecting(text, source, problems)
    if isinstance(node, MappingNode):
        return node, text
    what = "nothing in it" if node is None else "no mapping of keys"
    place = node.span if node else source.span(0, 0)
    raise InvalidRecipe([Problem(place, "", f"found {what}, expected a recipe", "`dbrun new NAME` writes one")])


def schema_version(path: Path) -> str | None:
    """What a file says in `schema`, None where it says nothing. Raises InvalidRecipe."""
    said = read_recipe_file(path).entries.get("schema")
    return said.value if isinstance(said, ScalarNode) else None


def parse(text: str, source: Source) -> Node | None:
    """The node in a text, or None where there is none. Raises InvalidRecipe."""
    problems: list[Problem] = []
    node = _parse_collecting(text, source, problems)
    if problems:
        raise InvalidRecipe(problems)
    return node


def _parse_collecting(text: str, source: Source, problems: list[Problem]) -> Node | None:
    check_characters(text, source)
    builder = _NodeBuilder(text, source)
    try:
        node = builder.document()
    except yaml.MarkedYAMLError as error:
        raise InvalidRecipe([*builder.problems, _syntax_problem(error, source)]) from None
    problems += builder.problems
    return node


def check_characters(text: str, source: Source) -> None:
    """Raise Problems where a text holds control characters or broken Unicode."""
    if bad := FORBIDDEN_CHARACTER.search(text):
        raise InvalidRecipe([Problem(_span_after(text[:bad.start()], source), "",
                                     f"found the character U+{ord(bad[0]):04X}, which no recipe may hold")])


def _span_after(text: str, source: Source) -> Span:
    """The place that comes after a text."""
    lines = LINE_BREAK.split(text)
    return source.span(len(lines) - 1, len(lines[-1]))


def _read_text(path: Path, asked: Span | None) -> tuple[Source, str]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidRecipe([_read_problem(path, asked, error)]) from None
    if len(data) > MAX_BYTES:
        raise InvalidRecipe([Problem(asked, "", f"{path} is larger than {MAX_BYTES // 1024} KiB; no recipe is")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[:error.start].decode("utf-8-sig", "replace")
        source = Source.from_text(data.decode("utf-8-sig", "replace"), path)
        raise InvalidRecipe([Problem(_span_after(before, source), "",
                                     f"found the byte 0x{data[error.start]:02x}, expected UTF-8 text",
                                     "save the file with the encoding UTF-8")]) from None
    return Source.from_text(text, path), text


def _read_problem(path: Path, asked: Span | None, error: OSError | ValueError) -> Problem:
    from dbrun.recipe.checks.suggestions import nearest

    if isinstance(error, FileNotFoundError):
        folder = path.parent
        # `dbrun new` writes into recipes/ where there is one
        files = [file for home in (folder, folder / "recipes") for file in sorted(home.glob("*.y*ml"))]
        near = nearest(path.stem, [file.stem for file in files])
        names = ", ".join(str(file.relative_to(folder)) for file in files)
        there = f"recipes there: {names}" if files else f"no recipes in {display_path(folder)}"
        meant = next((display_path(file) for file in files if file.stem == near), None)
        hint = f"; did you mean '{meant}'?" if meant else f"; {there}"
        fix = None if files else "dbrun new my_dog"
        return Problem(asked, "", f"no such recipe: {display_path(path)}{hint}", fix)
    if isinstance(error, IsADirectoryError):
        return Problem(asked, "", f"{path} is a folder, expected a recipe file")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Problem(asked, "", f"cannot read the recipe {str(path)!r}: {reason}")


class _NodeBuilder:
    """One pass over the YAML events of a text; collects every problem that does not stop the reading."""

    def __init__(self, text: str, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.has_refused_alias = False
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=LOADER))

    def document(self) -> Node | None:
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
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(event, f"found the tag '{tag}'; recipes have no tags",
                         "the key says what the value is; quotes keep text as text")
        if isinstance(event, yaml.ScalarEvent):
            return ScalarNode(event.value if event.style else PlainScalar(event.value), place)
        if isinstance(event, yaml.SequenceStartEvent):
            values = []
            while not isinstance(inner := next(self.events), yaml.SequenceEndEvent):
                values.append(self._node(inner, depth + 1))
            return SequenceNode(tuple(values), place)
        return self._mapping(place, depth)

    def _mapping(self, place: Span, depth: int) -> MappingNode:
        entries: dict[str, Node] = {}
        keys: dict[str, Span] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
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
        length = end.column - start.column if end.line == start.line else 1
        return self.source.span(start.line, start.column, length)

    def _refuse_alias(self, event: Any, what: str) -> None:
        """Refuse an anchor or an alias; the first of what can be thousands says it of all."""
        if not self.has_refused_alias:
            self._refuse(event, f"found {what}; recipes have neither anchors nor aliases",
                         "write a reference such as ${train.steps} instead of each")
        self.has_refused_alias = True

    def _refuse(self, event: Any, message: str, fix: str | None = None) -> None:
        self.problems.append(Problem(self._span(event), "", message, fix))


def _syntax_problem(error: yaml.MarkedYAMLError, source: Source) -> Problem:
    """libyaml's complaint in plain words."""
    marks = [source.span(m.line, m.column) for m in (error.problem_mark, error.context_mark) if m]
    place = next((p for p in marks if p.text[p.column - 1:].strip()), (*marks, source.span(0, 0))[0])
    said = error.problem or error.context or str(error)
    rest = place.text[place.column - 1:]
    if "nesting depth" in said:
        return Problem(place, "", TOO_DEEP)
    if "cannot start any token" in said:
        if rest.startswith("\t") or "\t" in place.text[:place.column]:
            return Problem(place, "", "found a tab, expected spaces", "indent with spaces")
        return Problem(place, "", f"found {rest[:1]!r} at the start of a value", "put the text in quotes")
    if "maximum nesting depth" in said:
        return Problem(place, "", TOO_DEEP)
    if "mapping values are not allowed" in said:
        return Problem(place, "", "found a second ': ' where a value stands, or a wrong indentation",
                       "put text that contains ': ' in quotes, and give keys of one level one indentation")
    if "unknown escape" in said:
        # libyaml points at the backslash, PyYAML's own reader behind it
        wrong = rest[:2] if rest.startswith("\\") else place.text[place.column - 2:place.column]
        return Problem(place, "", f"found {wrong} in double quotes, where a backslash begins an escape",
                       f"write \\{wrong}, or put the text in single quotes")
    if "${" in place.text and "{" in place.text.replace("${", ""):
        return Problem(place, "", f"not YAML: {said}", 'in { } a reference needs quotes: "${train.steps}"')
    context = f" {error.context}" if error.context and error.problem else ""
    return Problem(place, "", f"not YAML: {said}{context}",
                   "look at its quotes and brackets" if source.file is None else
                   "look at this line and the one above: indentation, quotes, brackets")
