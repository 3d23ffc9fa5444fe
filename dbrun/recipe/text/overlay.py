"""Layers of a recipe: the files that it extends, the recipe itself, and the overrides of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path

from dbrun.config_types import PlainScalar
from dbrun.input_file import path_exists
from dbrun.recipe.shipped import named_recipe
from dbrun.recipe.text.profiles import FILE_KEYS
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Source, Span, display_path
from dbrun.recipe.text.tree import MappingNode, Node, ScalarNode, SequenceNode, describe_node, merge
from dbrun.recipe.text.yaml import check_characters, parse, parse_recipe, read_file_and_text

MAX_FILES = 32
"""Largest number of files that one recipe may be built from."""


def merge_files(path: Path, problems: list[Problem],
                text: str | None = None) -> tuple[MappingNode, dict[Path, str]]:
    """The mapping of a recipe file merged over the files that it `extends`, and the text of each file read, it first.

    Later files of a list override earlier ones. text: the recipe's own, where no file at path holds it. Problems in
    extended files are added to `problems`. Raises InvalidRecipe where the file itself cannot be read.
    """
    files: list[tuple[Path, str]] = []
    if text is None:
        own, text = read_file_and_text(path, None, problems)
    else:
        own = parse_recipe(text, Source.from_text(text, path), problems)
    return _merge_extended(path, (own, text), None, (), files, problems), dict(files)


def parse_overrides(overrides: Sequence[str], problems: list[Problem]) -> MappingNode:
    """The mapping of `key=value` words; a later word overrides an earlier one. Unreadable words become problems.

    A value that begins with [, {, " or ' is parsed as YAML; any other value is an unquoted scalar.
    """
    merged = MappingNode({}, {}, Span(None, 1, 1, 1, " ".join(overrides)))
    for word in overrides:
        try:
            merged = merge(merged, _parse_override(word))
        except InvalidRecipe as error:
            problems += error.problems
    return merged


def _merge_extended(path: Path, read: tuple[MappingNode, str], asked: Span | None, chain: tuple[Path, ...],
                    files: list[tuple[Path, str]], problems: list[Problem]) -> MappingNode:
    """The file over the files that it extends.

    read: its mapping and its text; asked: where another file names it; chain: files that led to it.
    """
    own, text = read
    # two names of one file, by a link or by `a/../`, must still count as a circle
    real = Path(realpath(path))
    if real in chain:
        circle = (*chain[chain.index(real):], real)
        names = " → ".join(display_path(p) for p in circle)
        raise InvalidRecipe([Problem(asked, "extends", f"found a circle: {names}",
                                     "remove one of these `extends`")])
    # without circles, files that extend several others can still multiply
    if len(files) >= MAX_FILES:
        raise InvalidRecipe([Problem(asked, "extends", f"found more than {MAX_FILES} files that build on each other")])
    files.append((path, text))
    if "extends" not in own.entries:
        return own
    merged = MappingNode({}, {}, own.span)
    for scalar in _extended_paths(own.entries["extends"], problems):
        try:
            lower = _extended_file(path.parent, scalar.value)
            base = _merge_extended(lower, read_file_and_text(lower, scalar.span, problems), scalar.span, (*chain, real),
                                   files, problems)
        except InvalidRecipe as error:
            problems += error.problems
            continue
        merged = merge(merged, base)
    rest = {key: node for key, node in own.entries.items() if key != "extends"}
    return merge(merged, MappingNode(rest, own.key_spans, own.span))


def _extended_paths(node: Node, problems: list[Problem]) -> list[ScalarNode]:
    """The paths in `extends`, one or a list; anything else becomes a problem."""
    values: Sequence[Node] = [node]
    # an empty list is itself the problem
    if isinstance(node, SequenceNode) and node.values:
        values = node.values
    paths: list[ScalarNode] = []
    for value in values:
        if isinstance(value, ScalarNode) and value.value.strip():
            paths.append(value)
        else:
            message = f"found {describe_node(value)}, allowed: the path of a recipe, or several"
            problems.append(Problem(value.span, "extends", message))
    return paths


def _extended_file(folder: Path, word: str) -> Path:
    """The file that a word in `extends` means: a path in the folder, else a recipe of this name, there or of dbrun."""
    path = folder / word
    if path_exists(path):
        return path
    return named_recipe(word, (folder,)) or path


def _parse_override(word: str) -> MappingNode:
    """`train.steps=500` as a mapping in a mapping; each key has the span of its own characters in the word."""
    key, equals, value = word.partition("=")
    whole = Span(None, 1, 1, max(1, len(key)), word)
    if not equals or not key.strip():
        raise InvalidRecipe([Problem(whole, "", f"found '{word}', expected key=value, such as train.steps=500")])
    if not value.strip():
        raise InvalidRecipe([Problem(whole, key.strip(), "found no value",
                                     f"write {key.strip()}=null to leave it out")])
    names = key.strip().split(".")
    if not all(names):
        raise InvalidRecipe([Problem(whole, key, "found an empty word between dots")])
    if names[0] in FILE_KEYS:
        raise InvalidRecipe([Problem(whole, key, "is allowed only in a recipe file", "write it into a recipe")])
    *above, last = names
    # from the innermost key outwards
    start = len(key) - len(last) + 1
    table = MappingNode({last: _parse_value(key, value)}, {last: Span(None, 1, start, len(last), word)}, whole)
    for name in reversed(above):
        start -= len(name) + 1
        table = MappingNode({name: table}, {name: Span(None, 1, start, len(name), word)}, whole)
    return table


def _parse_value(key: str, value: str) -> Node:
    source = Source.from_text(f"{key}={value}", None, len(key) + 1)
    check_characters(key + value, source)
    # anything else is not YAML, so that a shell user can write `subject.instance_prompt=photo: a dog` unquoted
    if value.lstrip()[:1] in ("[", "{", '"', "'"):
        node = parse(value, source)
        if node is not None:
            return node
    return ScalarNode(PlainScalar(value.strip()), source.span(0, 0, len(value)))
