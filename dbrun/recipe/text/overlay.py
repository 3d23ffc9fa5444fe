"""What lies over what: the files that a recipe extends, the recipe itself, the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path

from dbrun.config_types import Plain
from dbrun.recipe.text.profiles import KEYS
from dbrun.recipe.text.spans import Place, Problem, Problems, Source, shown
from dbrun.recipe.text.tree import Items, Node, Scalar, Table, found, merge
from dbrun.recipe.text.yaml import check_characters, parse, read_both

MOST = 32


def from_files(path: Path, problems: list[Problem]) -> tuple[Table, dict[Path, str]]:
    """The mapping of a recipe file over those that it `extends`, and the text of each file read, this one first.

    Later files of a list lie over earlier ones. What is wrong with these is noted. Raises Problems where the file
    itself cannot be read.
    """
    files: list[tuple[Path, str]] = []
    return _with_bases(path, None, (), files, problems), dict(files)


def from_command_line(overrides: Sequence[str], problems: list[Problem]) -> Table:
    """The mapping that `key=value` words make; a later word wins. One that cannot be read becomes a problem.

    A value that begins with [, {, " or ' is YAML; any other is taken as it stands, like an unquoted value.
    """
    laid = Table({}, {}, Place(None, 1, 1, 1, " ".join(overrides)))
    for word in overrides:
        try:
            laid = merge(laid, _override(word))
        except Problems as error:
            problems += error.problems
    return laid


def _with_bases(path: Path, asked: Place | None, chain: tuple[Path, ...], files: list[tuple[Path, str]],
                problems: list[Problem]) -> Table:
    (own, text), real = read_both(path, asked, problems), Path(realpath(path))
    if real in chain:
        names = " → ".join(shown(p) for p in (*chain[chain.index(real):], real))
        raise Problems([Problem(asked, "extends", f"found a circle: {names}",
                                "take one of these `extends` away")])
    if len(files) >= MOST:
        raise Problems([Problem(asked, "extends", f"found more than {MOST} files that build on each other")])
    files.append((path, text))
    if "extends" not in own.entries:
        return own
    laid = Table({}, {}, own.place)
    for scalar in _names(own.entries["extends"], problems):
        try:
            base = _with_bases(path.parent / scalar.value, scalar.place, (*chain, real), files, problems)
        except Problems as error:
            problems += error.problems
            continue
        laid = merge(laid, base)
    rest = {k: v for k, v in own.entries.items() if k != "extends"}
    return merge(laid, Table(rest, own.keys, own.place))


def _names(node: Node, problems: list[Problem]) -> list[Scalar]:
    values = list(node.values) if isinstance(node, Items) else [node]
    names = [v for v in values if isinstance(v, Scalar) and v.value.strip()]
    wrong = [v for v in values if v not in names] or ([] if values else [node])
    problems += [Problem(v.place, "extends", f"found {found(v)}, allowed: the path of a recipe, or several")
                 for v in wrong]
    return names


def _override(word: str) -> Table:
    key, equals, value = word.partition("=")
    whole = Place(None, 1, 1, max(1, len(key)), word)
    if not equals or not key.strip():
        raise Problems([Problem(whole, "", f"found '{word}', expected key=value, such as train.steps=500")])
    if not value.strip():
        raise Problems([Problem(whole, key.strip(), "found no value", f"write {key.strip()}=null to leave it out")])
    *above, last = key.strip().split(".")
    if not all((*above, last)):
        raise Problems([Problem(whole, key, "found an empty word between dots")])
    if (above or [last])[0] in KEYS:
        raise Problems([Problem(whole, key, "stands only in a recipe file", "write it into a recipe")])
    start = len(key) - len(last) + 1
    table = Table({last: _value(key, value)}, {last: Place(None, 1, start, len(last), word)}, whole)
    for name in reversed(above):
        start -= len(name) + 1
        table = Table({name: table}, {name: Place(None, 1, start, len(name), word)}, whole)
    return table


def _value(key: str, value: str) -> Node:
    source = Source.of(f"{key}={value}", None, len(key) + 1)
    check_characters(key + value, source)
    if value.lstrip()[:1] in ("[", "{", '"', "'") and (node := parse(value, source)) is not None:
        return node
    return Scalar(Plain(value.strip()), source.place(0, 0, len(value)))
