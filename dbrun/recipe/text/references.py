"""What `${train.steps}` and `${env:NAME}` stand for: other keys of the recipe, declared variables, nothing else."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.profiles import ProfilesAndEnv
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span
from dbrun.recipe.text.tree import (
    KeyPath,
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    child,
    dotted_key,
    leaves,
    node_at,
)

REFERENCE_START = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
SINGLE_REFERENCE = re.compile(r"\$\{[^${}]*\}")
ENV_REFERENCE = re.compile(r"(?<!\\)((?:\\\\)*)\$\{\s*env:\s*(\w+)\s*\}")
ENV_KEY = "env"
"""Where the variables stand while OmegaConf has the recipe; no recipe has such a key."""
DOTTED_KEY = re.compile(r"\s*([A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*)\s*")
MAX_VALUE_LENGTH, MAX_REFERENCES, MAX_RESOLVED_LENGTH = 4096, 256, 1 << 16
PLAIN_MARK, QUOTED_MARK = "\x01", "\x02"
"""Written before a text while OmegaConf has it; no recipe may hold these characters, so nothing collides."""
ESCAPE_HINT = "write \\${ for the two characters themselves, in double quotes \\\\${"
"""The way out where a text holds these two by chance; where a reference was meant, what it needs is said instead."""


def resolve_references(data: MappingNode, beside: ProfilesAndEnv) -> MappingNode:
    """The recipe with every reference replaced by what it stands for. Raises InvalidRecipe.

    A value that is one reference takes the other value whole, number, list or mapping; inside a text the
    other's text is put in. `\\${` stays `${`.
    """
    marked = {path: leaf for path, leaf in leaves(data) if "${" in leaf.value}
    problems: list[Problem] = []
    variables = beside.env_values()
    known = _ReferenceScope(data, beside.env,
                            MappingNode({**data.entries, ENV_KEY: variables}, data.key_spans, data.span))
    targets = {path: _reference_targets(path, leaf, known, problems) for path, leaf in marked.items()}
    if len(marked) > MAX_REFERENCES:
        problems.append(Problem(data.span, "", f"found more than {MAX_REFERENCES} values with references"))
    if not problems:
        _CycleCheck(known.data_with_env, marked, targets, problems).run()
    if problems:
        raise InvalidRecipe(problems)
    made = _substitute(data, variables, marked)
    return _replace_in_mapping(data, (), made)


@dataclass(frozen=True)
class _ReferenceScope:
    """What references may name. data_with_env: the recipe and, below `env`, the variables that are set."""

    data: MappingNode
    env: Container[str]
    data_with_env: MappingNode


@dataclass(frozen=True)
class _BadReference:
    """Why a reference leads nowhere, and what to do about it."""

    message: str
    fix: str = ESCAPE_HINT


def _reference_targets(path: KeyPath, leaf: ScalarNode, known: _ReferenceScope,
                       problems: list[Problem]) -> list[KeyPath]:
    """The paths that a scalar refers to; what cannot be followed becomes a problem."""
    found: list[KeyPath] = []
    if len(leaf.value) > MAX_VALUE_LENGTH:
        problems.append(Problem(leaf.span, dotted_key(path),
                                f"found a reference in over {MAX_VALUE_LENGTH} characters"))
        return found
    for match in REFERENCE_START.finditer(leaf.value):
        body, brace, _ = leaf.value[match.end():].partition("}")
        target = _parse_target(body, known) if brace else _BadReference("found '${' without its '}'")
        if isinstance(target, _BadReference):
            problems.append(Problem(leaf.span, dotted_key(path), target.message, target.fix))
        elif (not isinstance(node_at(known.data_with_env, target), ScalarNode)
              and not SINGLE_REFERENCE.fullmatch(leaf.value)):
            problems.append(Problem(leaf.span, dotted_key(path), f"'{dotted_key(target)}' is not a single value, "
                                    "so it cannot stand inside a text"))
        else:
            found.append(target)
    return found


def _parse_target(body: str, known: _ReferenceScope) -> KeyPath | _BadReference:
    """The path that a reference names, or what is wrong with it."""
    data, (resolver, colon, name) = known.data, map(str.strip, body.partition(":"))
    if colon and resolver == ENV_KEY:
        return _env_target(body, name, known)
    if colon:
        return _BadReference(f"found '${{{body}}}', allowed: references to keys of this recipe, and ${{env:NAME}}; "
                             f"there is no resolver '{resolver}'")
    if not (named := DOTTED_KEY.fullmatch(body)):
        return _BadReference(f"found '${{{body}}}', allowed: a whole dotted key from the top, such as ${{train.steps}}")
    path: KeyPath = ()
    node: Node | None = data
    for word in re.split(r"[.\[\]]+", named[1].rstrip("]")):
        step = int(word) if isinstance(node, SequenceNode) and word.isdigit() and len(word) < 6 else word
        path, node = (*path, step), child(node, step) if node is not None else None
    if node is None:
        from dbrun.recipe.checks.schema_info import all_keys

        message = f"found '${{{body}}}', but nothing is written at '{named[1]}'"
        if named[1] in all_keys():
            return _BadReference(message, f"write `{named[1]}` too: a reference takes what is written, never a default")
        near = nearest(named[1], [dotted_key(p[:n]) for p, _ in leaves(data) for n in range(1, len(p) + 1)])
        if not near:
            return _BadReference(message)
        return _BadReference(f"{message}; did you mean '{near}'?", f"write ${{{near}}}")
    return path


def _env_target(body: str, name: str, known: _ReferenceScope) -> KeyPath | _BadReference:
    if name not in known.env:
        return _BadReference(f"found '${{{body}}}', but this recipe does not declare it",
                             f"write `env: [{name or 'NAME'}]` at the top of the recipe")
    if node_at(known.data_with_env, (ENV_KEY, name)) is None:
        return _BadReference(f"found '${{{body}}}', but the environment variable {name} is not set", f"export {name}=…")
    return ENV_KEY, name


class _CycleCheck:
    """References that lead to references: each is followed once; circles and endless texts are problems."""

    def __init__(self, data: MappingNode, marked: Mapping[KeyPath, ScalarNode],
                 targets: Mapping[KeyPath, list[KeyPath]], problems: list[Problem]) -> None:
        self.data, self.marked, self.targets, self.problems = data, marked, targets, problems
        self.sizes: dict[KeyPath, int] = {}
        self.path_stack: list[KeyPath] = []

    def run(self) -> None:
        for path, leaf in self.marked.items():
            if self._resolved_length(path, leaf) > MAX_RESOLVED_LENGTH and not self.problems:
                self.problems.append(Problem(leaf.span, dotted_key(path), "becomes too long by its references"))

    def _resolved_length(self, path: KeyPath, leaf: ScalarNode) -> int:
        if path not in self.targets:
            return 1 + len(leaf.value)
        if path in self.path_stack:
            if not self.problems:
                circle = " → ".join(dotted_key(p) for p in (*self.path_stack[self.path_stack.index(path):], path))
                self.problems.append(Problem(leaf.span, dotted_key(path), f"found a circle: {circle}"))
            return 0
        if path not in self.sizes:
            self.path_stack.append(path)
            self.sizes[path] = len(leaf.value) + sum(
                min(MAX_RESOLVED_LENGTH + 1, self._resolved_length((*target, *inner), scalar))
                for target in self.targets[path]
                for inner, scalar in leaves(node_at(self.data, target) or leaf))
            self.path_stack.pop()
        return self.sizes[path]


def _substitute(data: MappingNode, variables: MappingNode, marked: Mapping[KeyPath, ScalarNode]) -> dict[KeyPath, Node]:
    """OmegaConf's answer for every value with a reference, as nodes at that value's place."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    texts = {str(path[0]): PLAIN_MARK + _escape_references(node) for path, node in leaves(variables)}
    config = OmegaConf.create({**_to_omegaconf(data), ENV_KEY: texts})
    made: dict[KeyPath, Node] = {}
    for path, leaf in marked.items():
        try:
            value: Any = config
            for step in path:
                value = value[step]
            value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise InvalidRecipe([Problem(leaf.span, dotted_key(path), f"found no value: {reason}",
                                         ESCAPE_HINT)]) from None
        made[path] = _to_node(value, leaf.span)
    return made


def _to_omegaconf(node: Node) -> Any:
    """Plain data for OmegaConf: each text says in its first character whether it was quoted."""
    if isinstance(node, ScalarNode):
        text = ENV_REFERENCE.sub(rf"\1${{{ENV_KEY}.\2}}", node.value)
        if SINGLE_REFERENCE.fullmatch(text):
            return text
        return (PLAIN_MARK if isinstance(node.value, PlainScalar) else QUOTED_MARK) + text
    if isinstance(node, SequenceNode):
        return [_to_omegaconf(v) for v in node.values]
    return {k: _to_omegaconf(v) for k, v in node.entries.items()}


def _escape_references(node: ScalarNode) -> str:
    """The text of a variable, written so that OmegaConf finds no reference in it."""
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", node.value)


def _to_node(value: Any, place: Span) -> Node:
    if isinstance(value, dict):
        return MappingNode({k: _to_node(v, place) for k, v in value.items()}, dict.fromkeys(value, place), place)
    if isinstance(value, list):
        return SequenceNode(tuple(_to_node(v, place) for v in value), place)
    text = str(value).replace(PLAIN_MARK, "").replace(QUOTED_MARK, "")
    return ScalarNode(PlainScalar(text) if str(value).startswith(PLAIN_MARK) else text, place)


def _replace_in_mapping(table: MappingNode, path: KeyPath, made: Mapping[KeyPath, Node]) -> MappingNode:
    entries = {k: _replace_values(v, (*path, k), made) for k, v in table.entries.items()}
    return MappingNode(entries, table.key_spans, table.span)


def _replace_values(node: Node, path: KeyPath, made: Mapping[KeyPath, Node]) -> Node:
    if isinstance(node, ScalarNode):
        return made.get(path, node)
    if isinstance(node, SequenceNode):
        return SequenceNode(tuple(_replace_values(v, (*path, i), made) for i, v in enumerate(node.values)), node.span)
    return _replace_in_mapping(node, path, made)
