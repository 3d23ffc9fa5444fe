"""Stand-ins for packages that a program imports beside its loaders."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Stub(ModuleType):
    """A module in which every name is a class that can be called, subclassed and used as a decorator."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda *a, **k: None, "__call__": lambda *a, **k: None})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A spec for a stubbed package and everything in it."""
        if name in self.names or name.startswith(tuple(f"{stub}." for stub in self.names)):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty stub."""
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: a stub makes its names when they are asked for."""


def stub(*names: str) -> None:
    """Let imports of these packages succeed, whether they are installed or not."""
    sys.meta_path.insert(0, _Finder(names))
