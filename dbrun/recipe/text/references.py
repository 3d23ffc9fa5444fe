"""References in a recipe: `${train.steps}` is the value of another key, `${env:NAME}` a declared variable.

Every reference is checked here, with a message at its place, before OmegaConf replaces it. OmegaConf alone would report
no place, run any resolver that is registered, and follow endless references.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks.suggestions import MAX_SUGGESTIONS, nearest
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
"""Key of the variables in the data for OmegaConf; a recipe's own `env` key was taken out before."""
DOTTED_KEY = re.compile(r"\s*([A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*)\s*")
MAX_VALUE_LENGTH, MAX_REFERENCES, MAX_RESOLVED_LENGTH = 4096, 256, 1 << 16
"""Limits against a recipe that doubles a text with each reference ("billion laughs")."""
PLAIN_MARK, QUOTED_MARK = "\x01", "\x02"
"""First character of a text in the data for OmegaConf, which forgets quotes; no recipe may hold these characters."""
ESCAPE_HINT = "write \\${ for the two characters themselves, in double quotes \\\\${"
"""Fix for a text that holds `${` by chance."""


def resolve_references(data: MappingNode, beside: ProfilesAndEnv) -> MappingNode:
    """The recipe with every reference replaced by its value. Raises InvalidRecipe.

    A value that is a single reference becomes the whole other value: a number, a list or a mapping. Inside a text the
    other value's text is inserted. `\\${` becomes a literal `${`.
    """
    with_references = {path: leaf for path, leaf in leaves(data) if "${" in leaf.value}
    problems: list[Problem] = []
    variables = beside.env_values()
    data_with_env = MappingNode({**data.entries, ENV_KEY: variables}, data.key_spans, data.span)
    scope = _ReferenceScope(data, beside.env, data_with_env)
    # alone: to check thousands of them takes minutes
    if len(with_references) > MAX_REFERENCES:
        raise InvalidRecipe([Problem(data.span, "", f"found more than {MAX_REFERENCES} values with references")])
    targets = {path: _reference_targets(path, leaf, scope, problems) for path, leaf in with_references.items()}
    # a circle can be followed only where every reference leads somewhere
    if not problems:
        _CycleCheck(data_with_env, with_references, targets, problems).run()
    if problems:
        raise InvalidRecipe(problems)
    resolved = _substitute(data, variables, with_references)
    return _replace_in_mapping(data, (), resolved)


@dataclass(frozen=True)
class _ReferenceScope:
    """What references may name. env: declared variables; data_with_env: the recipe, and below `env` those that are set.
    """

    data: MappingNode
    env: Container[str]
    data_with_env: MappingNode


@dataclass(frozen=True)
class _BadReference:
    """Message and fix for a reference without a target."""

    message: str
    fix: str = ESCAPE_HINT


def _reference_targets(path: KeyPath, leaf: ScalarNode, scope: _ReferenceScope,
                       problems: list[Problem]) -> list[KeyPath]:
    """Paths that the references in a scalar name; a reference without a target becomes a problem."""
    targets: list[KeyPath] = []
    key = dotted_key(path)
    if len(leaf.value) > MAX_VALUE_LENGTH:
        problems.append(Problem(leaf.span, key, f"found a reference in a text of over {MAX_VALUE_LENGTH} characters",
                                "write the text without references"))
        return targets
    for match in REFERENCE_START.finditer(leaf.value):
        body, brace, _ = leaf.value[match.end():].partition("}")
        if not brace:
            problems.append(Problem(leaf.span, key, "found '${' without its '}'", ESCAPE_HINT))
            continue
        target = _parse_target(body, scope, suggest=len(problems) < MAX_SUGGESTIONS)
        if isinstance(target, _BadReference):
            problems.append(Problem(leaf.span, key, target.message, target.fix))
            continue
        single_value = isinstance(node_at(scope.data_with_env, target), ScalarNode)
        if not single_value and not SINGLE_REFERENCE.fullmatch(leaf.value):
            problems.append(Problem(leaf.span, key, f"'{dotted_key(target)}' is not a single value, "
                                    "so it cannot be inserted into a text"))
            continue
        targets.append(target)
    return targets


def _parse_target(body: str, scope: _ReferenceScope, *, suggest: bool) -> KeyPath | _BadReference:
    """The path that the text between the braces names, or what is wrong with it. suggest: look for a similar key."""
    before, colon, after = body.partition(":")
    resolver, name = before.strip(), after.strip()
    if colon and resolver == ENV_KEY:
        return _env_target(body, name, scope)
    if colon:
        return _BadReference(f"found '${{{body}}}', allowed: references to keys of this recipe, and ${{env:NAME}}; "
                             f"there is no resolver '{resolver}'")
    match = DOTTED_KEY.fullmatch(body)
    if match is None:
        return _BadReference(f"found '${{{body}}}', allowed: a whole dotted key from the top, such as ${{train.steps}}")
    path: KeyPath = ()
    node: Node | None = scope.data
    for word in re.split(r"[.\[\]]+", match[1].rstrip("]")):
        step: str | int = word
        # fewer than 6 digits: int() of a long text takes quadratic time, and no list is that long
        if isinstance(node, SequenceNode) and word.isdigit() and len(word) < 6:
            step = int(word)
        path = (*path, step)
        if node is not None:
            node = child(node, step)
    if node is None:
        return _unwritten_target(body, match[1], scope, suggest=suggest)
    return path


def _unwritten_target(body: str, key: str, scope: _ReferenceScope, *, suggest: bool) -> _BadReference:
    """Message and fix for a reference to a key that the recipe does not write."""
    from dbrun.recipe.checks.schema_info import all_keys

    message = f"found '${{{body}}}', but nothing is written at '{key}'"
    if key in all_keys():
        return _BadReference(message, f"write `{key}` too: a reference takes what is written, never a default")
    if not suggest:
        return _BadReference(message)
    written: list[str] = []
    for path, _ in leaves(scope.data):
        written += [dotted_key(path[:depth]) for depth in range(1, len(path) + 1)]
    near = nearest(key, written)
    if not near:
        return _BadReference(message)
    return _BadReference(f"{message}; did you mean '{near}'?", f"write ${{{near}}}")


def _env_target(body: str, name: str, scope: _ReferenceScope) -> KeyPath | _BadReference:
    # declared variables only, so that a recipe shows which parts of the environment change its result
    if name not in scope.env:
        return _BadReference(f"found '${{{body}}}', but this recipe does not declare it",
                             f"write `env: [{name or 'NAME'}]` at the top of the recipe")
    if node_at(scope.data_with_env, (ENV_KEY, name)) is None:
        return _BadReference(f"found '${{{body}}}', but the environment variable {name} is not set", f"export {name}=…")
    return ENV_KEY, name


class _CycleCheck:
    """Check that no reference leads back to itself, and that no resolved value is too long.

    Depth-first over the references; the length of each value is computed once.
    """

    def __init__(self, data: MappingNode, with_references: Mapping[KeyPath, ScalarNode],
                 targets: Mapping[KeyPath, list[KeyPath]], problems: list[Problem]) -> None:
        self.data, self.with_references, self.targets, self.problems = data, with_references, targets, problems
        self.lengths: dict[KeyPath, int] = {}
        self.path_stack: list[KeyPath] = []

    def run(self) -> None:
        for path, leaf in self.with_references.items():
            # the first problem only: each value of a circle would report the same circle again
            if self._resolved_length(path, leaf) > MAX_RESOLVED_LENGTH and not self.problems:
                self.problems.append(self._too_long(path, leaf))

    def _too_long(self, path: KeyPath, leaf: ScalarNode) -> Problem:
        """Problem of a value that is too long once its references are resolved."""
        message = f"found over {MAX_RESOLVED_LENGTH} characters once its references are resolved"
        return Problem(leaf.span, dotted_key(path), message, "shorten the texts that it refers to")

    def _resolved_length(self, path: KeyPath, leaf: ScalarNode) -> int:
        """Upper bound of the number of characters of a value after resolution."""
        if path not in self.targets:
            # at least 1, so that a long list of empty texts counts as well
            return 1 + len(leaf.value)
        if path in self.path_stack:
            if not self.problems:
                circle = (*self.path_stack[self.path_stack.index(path):], path)
                names = " → ".join(dotted_key(step) for step in circle)
                self.problems.append(Problem(leaf.span, dotted_key(path), f"found a circle: {names}"))
            return 0
        if path not in self.lengths:
            self.path_stack.append(path)
            length = len(leaf.value)
            for target in self.targets[path]:
                for inner, scalar in leaves(node_at(self.data, target) or leaf):
                    # capped, or the sums of a recipe that doubles at every step become huge integers
                    length += min(MAX_RESOLVED_LENGTH + 1, self._resolved_length((*target, *inner), scalar))
            self.lengths[path] = length
            self.path_stack.pop()
        return self.lengths[path]


def _substitute(data: MappingNode, variables: MappingNode,
                with_references: Mapping[KeyPath, ScalarNode]) -> dict[KeyPath, Node]:
    """Path → resolved value, as a node with the span of the value that holds the reference."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    texts = {str(path[0]): PLAIN_MARK + _escape_references(node) for path, node in leaves(variables)}
    config = OmegaConf.create({**_to_omegaconf(data), ENV_KEY: texts})
    resolved: dict[KeyPath, Node] = {}
    for path, leaf in with_references.items():
        try:
            value: Any = config
            for step in path:
                value = value[step]
            if OmegaConf.is_config(value):
                value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise InvalidRecipe([Problem(leaf.span, dotted_key(path), f"found no value: {reason}",
                                         ESCAPE_HINT)]) from None
        resolved[path] = _to_node(value, leaf.span)
    return resolved


def _to_omegaconf(node: Node) -> Any:
    """The node as plain data for OmegaConf; the first character of each text says whether it was quoted."""
    if isinstance(node, ScalarNode):
        # variables become ordinary keys: OmegaConf's own `env` resolver would read undeclared ones as well
        text = ENV_REFERENCE.sub(rf"\1${{{ENV_KEY}.\2}}", node.value)
        # with a mark in front it would no longer be a single reference, and could not become a list or a mapping
        if SINGLE_REFERENCE.fullmatch(text):
            return text
        mark = PLAIN_MARK if isinstance(node.value, PlainScalar) else QUOTED_MARK
        return mark + text
    if isinstance(node, SequenceNode):
        return [_to_omegaconf(value) for value in node.values]
    return {key: _to_omegaconf(value) for key, value in node.entries.items()}


def _escape_references(node: ScalarNode) -> str:
    """The text of a variable with every `${` escaped: its value must not be read as a reference."""
    # backslashes before it are doubled, since OmegaConf reads them as escapes there
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", node.value)


def _to_node(value: Any, span: Span) -> Node:
    """OmegaConf's plain data as a node; all its values get the same span."""
    if isinstance(value, dict):
        entries = {key: _to_node(inner, span) for key, inner in value.items()}
        return MappingNode(entries, dict.fromkeys(value, span), span)
    if isinstance(value, list):
        return SequenceNode(tuple(_to_node(inner, span) for inner in value), span)
    # inserted texts bring their own marks along; the first mark is that of the whole value
    text = str(value).replace(PLAIN_MARK, "").replace(QUOTED_MARK, "")
    if str(value).startswith(PLAIN_MARK):
        return ScalarNode(PlainScalar(text), span)
    return ScalarNode(text, span)


def _replace_in_mapping(table: MappingNode, path: KeyPath, resolved: Mapping[KeyPath, Node]) -> MappingNode:
    entries = {key: _replace_values(value, (*path, key), resolved) for key, value in table.entries.items()}
    return MappingNode(entries, table.key_spans, table.span)


def _replace_values(node: Node, path: KeyPath, resolved: Mapping[KeyPath, Node]) -> Node:
    if isinstance(node, ScalarNode):
        return resolved.get(path, node)
    if isinstance(node, SequenceNode):
        values = [_replace_values(value, (*path, i), resolved) for i, value in enumerate(node.values)]
        return SequenceNode(tuple(values), node.span)
    return _replace_in_mapping(node, path, resolved)
