"""What `${train.steps}` and `${env:NAME}` stand for: other keys of the recipe, declared variables, nothing else."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.config_types import Plain
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.profiles import Asides
from dbrun.recipe.text.spans import Place, Problem, Problems
from dbrun.recipe.text.tree import Items, Node, Path, Scalar, Table, at, child, dotted, leaves

START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
WHOLE = re.compile(r"\$\{[^${}]*\}")
VARIABLE = re.compile(r"(?<!\\)((?:\\\\)*)\$\{\s*env:\s*(\w+)\s*\}")
ENV = "env"
"""Where the variables stand while OmegaConf has the recipe; no recipe has such a key."""
KEY = re.compile(r"\s*([A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*)\s*")
LONGEST, MOST, SUM = 4096, 256, 1 << 16
PLAIN, QUOTED = "\x01", "\x02"
"""Written before a text while OmegaConf has it; no recipe may hold these characters, so nothing collides."""
ESCAPE = "write \\${ for the two characters themselves, in double quotes \\\\${"
"""The way out where a text holds these two by chance; where a reference was meant, what it needs is said instead."""


def resolve(data: Table, beside: Asides) -> Table:
    """The recipe with every reference replaced by what it stands for. Raises Problems.

    A value that is one reference takes the other value whole, number, list or mapping; inside a text the
    other's text is put in. `\\${` stays `${`.
    """
    marked = {path: leaf for path, leaf in leaves(data) if "${" in leaf.value}
    problems: list[Problem] = []
    variables = beside.values()
    known = _Known(data, beside.env, Table({**data.entries, ENV: variables}, data.keys, data.place))
    targets = {path: _targets(path, leaf, known, problems) for path, leaf in marked.items()}
    if len(marked) > MOST:
        problems.append(Problem(data.place, "", f"found more than {MOST} values with references"))
    if not problems:
        _Chain(known.whole, marked, targets, problems).follow()
    if problems:
        raise Problems(problems)
    made = _substitute(data, variables, marked)
    return _table(data, (), made)


@dataclass(frozen=True)
class _Known:
    """What references may name. whole: the recipe and, below `env`, the variables that are set."""

    data: Table
    env: Container[str]
    whole: Table


@dataclass(frozen=True)
class _Nowhere:
    """Why a reference leads nowhere, and what to do about it."""

    message: str
    fix: str = ESCAPE


def _targets(path: Path, leaf: Scalar, known: _Known, problems: list[Problem]) -> list[Path]:
    """The paths that a scalar refers to; what cannot be followed becomes a problem."""
    found: list[Path] = []
    if len(leaf.value) > LONGEST:
        problems.append(Problem(leaf.place, dotted(path), f"found a reference in over {LONGEST} characters"))
        return found
    for match in START.finditer(leaf.value):
        body, brace, _ = leaf.value[match.end():].partition("}")
        target = _target(body, known) if brace else _Nowhere("found '${' without its '}'")
        if isinstance(target, _Nowhere):
            problems.append(Problem(leaf.place, dotted(path), target.message, target.fix))
        elif not isinstance(at(known.whole, target), Scalar) and not WHOLE.fullmatch(leaf.value):
            problems.append(Problem(leaf.place, dotted(path), f"'{dotted(target)}' is not a single value, "
                                    "so it cannot stand inside a text"))
        else:
            found.append(target)
    return found


def _target(body: str, known: _Known) -> Path | _Nowhere:
    """The path that a reference names, or what is wrong with it."""
    data, (resolver, colon, name) = known.data, map(str.strip, body.partition(":"))
    if colon and resolver == ENV:
        return _variable(body, name, known)
    if colon:
        return _Nowhere(f"found '${{{body}}}', allowed: references to keys of this recipe, and ${{env:NAME}}; "
                        f"there is no resolver '{resolver}'")
    if not (named := KEY.fullmatch(body)):
        return _Nowhere(f"found '${{{body}}}', allowed: a whole dotted key from the top, such as ${{train.steps}}")
    path: Path = ()
    node: Node | None = data
    for word in re.split(r"[.\[\]]+", named[1].rstrip("]")):
        step = int(word) if isinstance(node, Items) and word.isdigit() and len(word) < 6 else word
        path, node = (*path, step), child(node, step) if node is not None else None
    if node is None:
        from dbrun.recipe.checks.schema_info import everywhere

        message = f"found '${{{body}}}', but nothing is written at '{named[1]}'"
        if named[1] in everywhere():
            return _Nowhere(message, f"write `{named[1]}` too: a reference takes what is written, never a default")
        near = nearest(named[1], [dotted(p[:n]) for p, _ in leaves(data) for n in range(1, len(p) + 1)])
        return _Nowhere(f"{message}; did you mean '{near}'?", f"write ${{{near}}}") if near else _Nowhere(message)
    return path


def _variable(body: str, name: str, known: _Known) -> Path | _Nowhere:
    if name not in known.env:
        return _Nowhere(f"found '${{{body}}}', but this recipe does not declare it",
                        f"write `env: [{name or 'NAME'}]` at the top of the recipe")
    if at(known.whole, (ENV, name)) is None:
        return _Nowhere(f"found '${{{body}}}', but the environment variable {name} is not set", f"export {name}=…")
    return ENV, name


class _Chain:
    """References that lead to references: each is followed once; circles and endless texts are problems."""

    def __init__(self, data: Table, marked: Mapping[Path, Scalar], targets: Mapping[Path, list[Path]],
                 problems: list[Problem]) -> None:
        self.data, self.marked, self.targets, self.problems = data, marked, targets, problems
        self.sizes: dict[Path, int] = {}
        self.open: list[Path] = []

    def follow(self) -> None:
        for path, leaf in self.marked.items():
            if self._size(path, leaf) > SUM and not self.problems:
                self.problems.append(Problem(leaf.place, dotted(path), "becomes too long by its references"))

    def _size(self, path: Path, leaf: Scalar) -> int:
        if path not in self.targets:
            return 1 + len(leaf.value)
        if path in self.open:
            if not self.problems:
                circle = " → ".join(dotted(p) for p in (*self.open[self.open.index(path):], path))
                self.problems.append(Problem(leaf.place, dotted(path), f"found a circle: {circle}"))
            return 0
        if path not in self.sizes:
            self.open.append(path)
            self.sizes[path] = len(leaf.value) + sum(
                min(SUM + 1, self._size((*target, *inner), scalar)) for target in self.targets[path]
                for inner, scalar in leaves(at(self.data, target) or leaf))
            self.open.pop()
        return self.sizes[path]


def _substitute(data: Table, variables: Table, marked: Mapping[Path, Scalar]) -> dict[Path, Node]:
    """OmegaConf's answer for every value with a reference, as nodes at that value's place."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    texts = {str(path[0]): PLAIN + _literal(node) for path, node in leaves(variables)}
    config = OmegaConf.create({**_marked(data), ENV: texts})
    made: dict[Path, Node] = {}
    for path, leaf in marked.items():
        try:
            value: Any = config
            for step in path:
                value = value[step]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise Problems([Problem(leaf.place, dotted(path), f"found no value: {reason}", ESCAPE)]) from None
        made[path] = _node(value, leaf.place)
    return made


def _marked(node: Node) -> Any:
    """Plain data for OmegaConf: each text says in its first character whether it was quoted."""
    if isinstance(node, Scalar):
        text = VARIABLE.sub(rf"\1${{{ENV}.\2}}", node.value)
        if WHOLE.fullmatch(text):
            return text
        return (PLAIN if isinstance(node.value, Plain) else QUOTED) + text
    if isinstance(node, Items):
        return [_marked(v) for v in node.values]
    return {k: _marked(v) for k, v in node.entries.items()}


def _literal(node: Scalar) -> str:
    """The text of a variable, written so that OmegaConf finds no reference in it."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", node.value)


def _node(value: Any, place: Place) -> Node:
    if isinstance(value, dict):
        return Table({k: _node(v, place) for k, v in value.items()}, dict.fromkeys(value, place), place)
    if isinstance(value, list):
        return Items(tuple(_node(v, place) for v in value), place)
    text = str(value).replace(PLAIN, "").replace(QUOTED, "")
    return Scalar(Plain(text) if str(value).startswith(PLAIN) else text, place)


def _table(table: Table, path: Path, made: Mapping[Path, Node]) -> Table:
    entries = {k: _rebuilt(v, (*path, k), made) for k, v in table.entries.items()}
    return Table(entries, table.keys, table.place)


def _rebuilt(node: Node, path: Path, made: Mapping[Path, Node]) -> Node:
    if isinstance(node, Scalar):
        return made.get(path, node)
    if isinstance(node, Items):
        return Items(tuple(_rebuilt(v, (*path, i), made) for i, v in enumerate(node.values)), node.place)
    return _table(node, path, made)
