"""What lies over what: the files that a recipe extends, the recipe itself, the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path

from dbrun.config_types import PlainScalar
from dbrun.recipe.text.profiles import FILE_KEYS
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Source, Span, display_path
from dbrun.recipe.text.tree import MappingNode, Node, ScalarNode, SequenceNode, describe_node, merge
from dbrun.recipe.text.yaml import check_characters, parse, read_file_and_text

MAX_FILES = 32


def merge_files(path: Path, problems: list[Problem]) -> tuple[MappingNode, dict[Path, str]]:
    """The mapping of a recipe file over those that it `extends`, and the text of each file read, this one first.

    Later files of a list lie over earlier ones. What is wrong with these is noted. Raises InvalidRecipe where the file
    itself cannot be read.
    """
    files: list[tuple[Path, str]] = []
    return _merge_extended(path, None, (), files, problems), dict(files)


def parse_overrides(overrides: Sequence[str], problems: list[Problem]) -> MappingNode:
    """The mapping that `key=value` words make; a later word wins. One that cannot be read becomes a problem.

    A value that begins with [, {, " or ' is YAML; any other is taken as it stands, like an unquoted value.
    """
    laid = MappingNode({}, {}, Span(None, 1, 1, 1, " ".join(overrides)))
    for word in overrides:
        try:
            laid = merge(laid, _parse_override(word))
        except InvalidRecipe as error:
            problems += error.problems
    return laid


def _merge_extended(path: Path, asked: Span | None, chain: tuple[Path, ...], files: list[tuple[Path, str]],
                    problems: list[Problem]) -> MappingNode:
    (own, text), real = read_file_and_text(path, asked, problems), Path(realpath(path))
    if real in chain:
        names = " → ".join(display_path(p) for p in (*chain[chain.index(real):], real))
        raise InvalidRecipe([Problem(asked, "extends", f"found a circle: {names}",
                                     "take one of these `extends` away")])
    if len(files) >= MAX_FILES:
        raise InvalidRecipe([Problem(asked, "extends", f"found more than {MAX_FILES} files that build on each other")])
    files.append((path, text))
    if "extends" not in own.entries:
        return own
    laid = MappingNode({}, {}, own.span)
    for scalar in _extended_paths(own.entries["extends"], problems):
        try:
            base = _merge_extended(path.parent / scalar.value, scalar.span, (*chain, real), files, problems)
        except InvalidRecipe as error:
            problems += error.problems
            continue
        laid = merge(laid, base)
    rest = {k: v for k, v in own.entries.items() if k != "extends"}
    return merge(laid, MappingNode(rest, own.key_spans, own.span))


def _extended_paths(node: Node, problems: list[Problem]) -> list[ScalarNode]:
    values = list(node.values) if isinstance(node, SequenceNode) else [node]
    names = [v for v in values if isinstance(v, ScalarNode) and v.value.strip()]
    wrong = [v for v in values if v not in names] or ([] if values else [node])
    problems += [Problem(v.span, "extends", f"found {describe_node(v)}, allowed: the path of a recipe, or several")
                 for v in wrong]
    return names


def _parse_override(word: str) -> MappingNode:
    key, equals, value = word.partition("=")
    whole = Span(None, 1, 1, max(1, len(key)), word)
    if not equals or not key.strip():
        raise InvalidRecipe([Problem(whole, "", f"found '{word}', expected key=value, such as train.steps=500")])
    if not value.strip():
        raise InvalidRecipe([Problem(whole, key.strip(), "found no value",
                                     f"write {key.strip()}=null to leave it out")])
    *above, last = key.strip().split(".")
    if not all((*above, last)):
        raise InvalidRecipe([Problem(whole, key, "found an empty word between dots")])
    if (above or [last])[0] in FILE_KEYS:
        raise InvalidRecipe([Problem(whole, key, "stands only in a recipe file", "write it into a recipe")])
    start = len(key) - len(last) + 1
    table = MappingNode({last: _parse_value(key, value)}, {last: Span(None, 1, start, len(last), word)}, whole)
    for name in reversed(above):
        start -= len(name) + 1
        table = MappingNode({name: table}, {name: Span(None, 1, start, len(name), word)}, whole)
    return table


def _parse_value(key: str, value: str) -> Node:
    source = Source.from_text(f"{key}={value}", None, len(key) + 1)
    check_characters(key + value, source)
    if value.lstrip()[:1] in ("[", "{", '"', "'") and (node := parse(value, source)) is not None:
        return node
    return ScalarNode(PlainScalar(value.strip()), source.span(0, 0, len(value)))
