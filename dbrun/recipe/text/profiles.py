"""What stands in a recipe file beside the recipe: its profiles, and the environment variables that it may read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dbrun.config_types import Plain
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.text.spans import Place, Problem, Problems
from dbrun.recipe.text.tree import Items, Node, Scalar, Table, found, leaves, merge
from dbrun.recipe.text.yaml import UNPRINTABLE
from dbrun.secrets import OF_THE_HUB

KEYS = ("extends", "profiles", "env")
"""Keys of a recipe file that are no part of the recipe itself."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.IGNORECASE)


@dataclass(frozen=True)
class Asides:
    """profiles: name → what it lays over the recipe; env: the variables that `${env:NAME}` may name."""

    profiles: Mapping[str, Table]
    env: Mapping[str, Place]

    def chosen(self, names: Sequence[str], data: Table, problems: list[Problem]) -> Table:
        """The recipe with profiles laid over it, a later one over earlier ones; unknown ones are noted."""
        for name in names:
            if name in self.profiles:
                data = merge(data, self.profiles[name])
            else:
                problems.append(Problem(None, "", f"found --profile {name}, {self._known(name)}"))
        return data

    def _known(self, name: str) -> str:
        if not self.profiles:
            return "but this recipe has no `profiles`"
        near = nearest(name, self.profiles)
        return f"allowed: {', '.join(self.profiles)}" + (f"; did you mean '{near}'?" if near else "")

    def values(self) -> Table:
        """The variables that are set, as nodes; their text is never read as references. Raises Problems."""
        known = {name: Scalar(Plain(os.environ[name]), place) for name, place in self.env.items() if name in os.environ}
        wrong = [Problem(node.place, "env", f"the environment variable {name} holds a control character or broken "
                         "Unicode") for name, node in known.items() if UNPRINTABLE.search(node.value)]
        if wrong:
            raise Problems(wrong)
        return Table(known, dict(self.env), Place(None, 1, 1, 1, ""))


def take(data: Table, problems: list[Problem]) -> tuple[Table, Asides]:
    """The recipe without what stands beside it, and that; what is wrong with this is noted."""
    profiles = dict(_profiles(data.entries.get("profiles"), problems))
    env = dict(_variables(data.entries.get("env"), problems))
    rest = {key: node for key, node in data.entries.items() if key not in KEYS}
    return Table(rest, data.keys, data.place), Asides(profiles, env)


def tokens(data: Table) -> Iterator[Problem]:
    """Values that are the Hub's tokens: what is in a recipe goes into every file made by it."""
    for key, leaf in leaves(data):
        if OF_THE_HUB.search(leaf.value):
            yield Problem(leaf.place, ".".join(map(str, key)), "found what looks like a token of the Hub, and a recipe "
                          "goes into the exported files", "take it away, and log in with `hf auth login`, or set "
                          "HF_TOKEN")


def places(node: Node) -> Iterator[Place]:
    """Every place inside a node, that of keys too."""
    yield node.place
    if isinstance(node, Table):
        yield from node.keys.values()
    inner = node.values if isinstance(node, Items) else node.entries.values() if isinstance(node, Table) else ()
    for below in inner:
        yield from places(below)


def reads_environment(node: Node) -> set[Place]:
    """The places of the values that read the environment."""
    return {leaf.place for _, leaf in leaves(node) if "${env:" in leaf.value}


def _profiles(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, Table]]:
    if node is not None and not isinstance(node, Table):
        problems.append(Problem(node.place, "profiles", f"found {found(node)}, allowed: a mapping of names to parts of "
                                "a recipe, such as {ci: {train: {steps: 3}}}"))
        return
    for name, profile in node.entries.items() if node else ():
        if not isinstance(profile, Table):
            problems.append(Problem(profile.place, f"profiles.{name}", f"found {found(profile)}, allowed: a part of a "
                                    "recipe, such as {train: {steps: 3}}"))
            continue
        for key in (key for key in KEYS if key in profile.entries):
            problems.append(Problem(profile.keys[key], f"profiles.{name}.{key}", "stands only at the top of a recipe",
                                    "move it there"))
        yield name, profile


def _variables(node: Node | None, problems: list[Problem]) -> Iterator[tuple[str, Place]]:
    values = node.values if isinstance(node, Items) else [node] if node is not None else []
    for value in values:
        name = value.value if isinstance(value, Scalar) else ""
        if not isinstance(node, Items) or not VARIABLE.fullmatch(name):
            problems.append(Problem(value.place, "env", f"found {found(value)}, allowed: a list of environment "
                                    "variables, such as [DATA]"))
        elif SECRET.search(name):
            problems.append(Problem(value.place, "env", f"found '{name}', which sounds like a secret: what a recipe "
                                    "says is written into its exports", "the Hub's token is read without being named"))
        else:
            yield name, value.place
