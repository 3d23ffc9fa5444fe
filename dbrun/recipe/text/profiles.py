"""Keys of a recipe file that are not part of the recipe: its profiles, and the environment variables that it reads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span
from dbrun.recipe.text.tree import (
    MappingNode,
    Node,
    ScalarNode,
    SequenceNode,
    describe_node,
    dotted_key,
    drop_key,
    leaves,
    merge,
)
from dbrun.recipe.text.yaml import FORBIDDEN_CHARACTER
from dbrun.secrets import HUB_TOKEN

FILE_KEYS = ("extends", "profiles", "env")
"""Keys of a recipe file that are not part of the recipe itself."""
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE)


@dataclass(frozen=True)
class ProfilesAndEnv:
    """Profiles and declared environment variables of a recipe file.

    profiles: name → the part of a recipe that it overrides; env: name of a variable that `${env:NAME}` may read → where
    it is declared.
    """

    profiles: Mapping[str, MappingNode]
    env: Mapping[str, Span]

    def apply_profiles(self, names: Sequence[str], data: MappingNode, problems: list[Problem]) -> MappingNode:
        """The recipe with these profiles merged over it, later ones over earlier ones; unknown names become problems.
        """
        for name in names:
            if name in self.profiles:
                data = merge(data, self.profiles[name])
            else:
                problems.append(Problem(None, "", f"found --profile {name}, {self._profile_hint(name)}"))
        return data

    def _profile_hint(self, name: str) -> str:
        if not self.profiles:
            return "but this recipe has no `profiles`"
        allowed = f"allowed: {', '.join(self.profiles)}"
        near = nearest(name, self.profiles)
        if near is None:
            return allowed
        return f"{allowed}; did you mean '{near}'?"

    def env_values(self) -> MappingNode:
        """Variable name → its value as an unquoted scalar, for the variables that are set.

        Raises InvalidRecipe where a value holds a character that no recipe may hold.
        """
        values: dict[str, Node] = {}
        problems: list[Problem] = []
        for name, span in self.env.items():
            value = os.environ.get(name)
            if value is None:
                continue
            values[name] = ScalarNode(PlainScalar(value), span)
            # the environment is bytes of any origin, and the value would reach logs and exported files
            if FORBIDDEN_CHARACTER.search(value):
                message = f"the environment variable {name} holds a control character or broken Unicode"
                problems.append(Problem(span, "env", message))
        if problems:
            raise InvalidRecipe(problems)
        return MappingNode(values, dict(self.env), Span(None, 1, 1, 1, ""))


def split_file_keys(data: MappingNode, problems: list[Problem]) -> tuple[MappingNode, ProfilesAndEnv]:
    """The recipe without FILE_KEYS, and its profiles and variables; what is wrong with these becomes a problem."""
    profiles = dict(_read_profiles(data.entries.get("profiles"), problems))
    env = dict(_read_env(data.entries.get("env"), problems))
    rest = {key: node for key, node in data.entries.items() if key not in FILE_KEYS}
    return MappingNode(rest, data.key_spans, data.span), ProfilesAndEnv(profiles, env)


def find_hub_tokens(data: MappingNode) -> Iterator[Problem]:
    """Problems for values that look like Hub tokens: an export stores the recipe, so it would publish the token."""
    for key, leaf in leaves(data):
        if HUB_TOKEN.search(leaf.value):
            yield Problem(leaf.span, dotted_key(key), "found what looks like a token of the Hub, and a recipe "
                          "goes into the exported files", "remove it, and log in with `hf auth login`, or set "
                          "HF_TOKEN")


def spans_in(node: Node) -> Iterator[Span]:
    """Spans of a node and of every key and value inside it."""
    yield node.span
    inner: Iterable[Node] = ()
    if isinstance(node, SequenceNode):
        inner = node.values
    elif isinstance(node, MappingNode):
        yield from node.key_spans.values()
        inner = node.entries.values()
    for child in inner:
        yield from spans_in(child)


def env_reference_spans(node: Node) -> set[Span]:
    """Spans of the values that read an environment variable."""
    return {leaf.span for _, leaf in leaves(node) if "${env:" in leaf.value}


def _read_profiles(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, MappingNode]]:
    if node is not None and not isinstance(node, MappingNode):
        problems.append(Problem(node.span, "profiles",
                                f"found {describe_node(node)}, allowed: a mapping of names to parts of "
                                "a recipe, such as {ci: {train: {steps: 3}}}"))
        return
    if node is None:
        return
    for name, profile in node.entries.items():
        if not isinstance(profile, MappingNode):
            problems.append(Problem(profile.span, f"profiles.{name}",
                                    f"found {describe_node(profile)}, allowed: a part of a "
                                    "recipe, such as {train: {steps: 3}}"))
            continue
        for key in FILE_KEYS:
            if key in profile.entries:
                problems.append(Problem(profile.key_spans[key], f"profiles.{name}.{key}",
                                        "is allowed only at the top of a recipe", "move it there"))
                # dropped, or it would be told a second time as an unknown key
                profile = drop_key(profile, key)
        yield name, profile


def _read_env(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, Span]]:
    if node is None:
        return
    if not isinstance(node, SequenceNode):
        problems.append(_wrong_variable(node))
        return
    for item in node.values:
        if not isinstance(item, ScalarNode) or not VARIABLE_NAME.fullmatch(item.value):
            problems.append(_wrong_variable(item))
        elif SECRET_VARIABLE.search(item.value):
            problems.append(Problem(item.span, "env", f"found '{item.value}', which sounds like a secret: a recipe's "
                                    "values are written into its exports", "dbrun reads the Hub's token by itself"))
        else:
            yield item.value, item.span


def _wrong_variable(node: Node) -> Problem:
    message = f"found {describe_node(node)}, allowed: a list of environment variables, such as [DATA]"
    return Problem(node.span, "env", message)
