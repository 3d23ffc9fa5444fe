"""What stands in a recipe file beside the recipe: its profiles, and the environment variables that it may read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dbrun.config_types import PlainScalar
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span
from dbrun.recipe.text.tree import MappingNode, Node, ScalarNode, SequenceNode, describe_node, leaves, merge
from dbrun.recipe.text.yaml import FORBIDDEN_CHARACTER
from dbrun.secrets import HUB_TOKEN

FILE_KEYS = ("extends", "profiles", "env")
"""Keys of a recipe file that are no part of the recipe itself."""
VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE)


@dataclass(frozen=True)
class ProfilesAndEnv:
    """profiles: name → what it lays over the recipe; env: the variables that `${env:NAME}` may name."""

    profiles: Mapping[str, MappingNode]
    env: Mapping[str, Span]

    def apply_profiles(self, names: Sequence[str], data: MappingNode, problems: list[Problem]) -> MappingNode:
        """The recipe with profiles laid over it, a later one over earlier ones; unknown ones are noted."""
        for name in names:
            if name in self.profiles:
                data = merge(data, self.profiles[name])
            else:
                problems.append(Problem(None, "", f"found --profile {name}, {self._profile_hint(name)}"))
        return data

    def _profile_hint(self, name: str) -> str:
        if not self.profiles:
            return "but this recipe has no `profiles`"
        near = nearest(name, self.profiles)
        return f"allowed: {', '.join(self.profiles)}" + (f"; did you mean '{near}'?" if near else "")

    def env_values(self) -> MappingNode:
        """The variables that are set, as nodes; their text is never read as references. Raises InvalidRecipe."""
        known = {name: ScalarNode(PlainScalar(os.environ[name]), place)
                 for name, place in self.env.items() if name in os.environ}
        wrong = [Problem(node.span, "env", f"the environment variable {name} holds a control character or broken "
                         "Unicode") for name, node in known.items() if FORBIDDEN_CHARACTER.search(node.value)]
        if wrong:
            raise InvalidRecipe(wrong)
        return MappingNode(known, dict(self.env), Span(None, 1, 1, 1, ""))


def split_file_keys(data: MappingNode, problems: list[Problem]) -> tuple[MappingNode, ProfilesAndEnv]:
    """The recipe without what stands beside it, and that; what is wrong with this is noted."""
    profiles = dict(_read_profiles(data.entries.get("profiles"), problems))
    env = dict(_read_env(data.entries.get("env"), problems))
    rest = {key: node for key, node in data.entries.items() if key not in FILE_KEYS}
    return MappingNode(rest, data.key_spans, data.span), ProfilesAndEnv(profiles, env)


def find_hub_tokens(data: MappingNode) -> Iterator[Problem]:
    """Values that are the Hub's tokens: what is in a recipe goes into every file made by it."""
    for key, leaf in leaves(data):
        if HUB_TOKEN.search(leaf.value):
            yield Problem(leaf.span, ".".join(map(str, key)), "found what looks like a token of the Hub, and a recipe "
                          "goes into the exported files", "take it away, and log in with `hf auth login`, or set "
                          "HF_TOKEN")


def spans_in(node: Node) -> Iterator[Span]:
    """Every place inside a node, that of keys too."""
    yield node.span
    if isinstance(node, MappingNode):
        yield from node.key_spans.values()
    inner: Iterable[Node] = ()
    if isinstance(node, SequenceNode):
        inner = node.values
    elif isinstance(node, MappingNode):
        inner = node.entries.values()
    for below in inner:
        yield from spans_in(below)


def env_reference_spans(node: Node) -> set[Span]:
    """The places of the values that read the environment."""
    return {leaf.span for _, leaf in leaves(node) if "${env:" in leaf.value}


def _read_profiles(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, MappingNode]]:
    if node is not None and not isinstance(node, MappingNode):
        problems.append(Problem(node.span, "profiles",
                                f"found {describe_node(node)}, allowed: a mapping of names to parts of "
                                "a recipe, such as {ci: {train: {steps: 3}}}"))
        return
    for name, profile in node.entries.items() if node else ():
        if not isinstance(profile, MappingNode):
            problems.append(Problem(profile.span, f"profiles.{name}",
                                    f"found {describe_node(profile)}, allowed: a part of a "
                                    "recipe, such as {train: {steps: 3}}"))
            continue
        for key in (key for key in FILE_KEYS if key in profile.entries):
            problems.append(Problem(profile.key_spans[key], f"profiles.{name}.{key}",
                                    "stands only at the top of a recipe", "move it there"))
        yield name, profile


def _read_env(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, Span]]:
    values = node.values if isinstance(node, SequenceNode) else [node] if node is not None else []
    for value in values:
        name = value.value if isinstance(value, ScalarNode) else ""
        if not isinstance(node, SequenceNode) or not VARIABLE_NAME.fullmatch(name):
            problems.append(Problem(value.span, "env", f"found {describe_node(value)}, allowed: a list of environment "
                                    "variables, such as [DATA]"))
        elif SECRET_VARIABLE.search(name):
            problems.append(Problem(value.span, "env", f"found '{name}', which sounds like a secret: what a recipe "
                                    "says is written into its exports", "the Hub's token is read without being named"))
        else:
            yield name, value.span
