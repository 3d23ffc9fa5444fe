"""Which packages do only some choices need, and how are they installed?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class OptionalPackage:
    """A package that not every recipe needs. name: pip's; module: what is imported; extra: dbrun's that brings it."""

    name: str
    module: str
    extra: str

    @property
    def is_installed(self) -> bool:
        """Whether it is there; found out without loading it."""
        return find_spec(self.module) is not None

    @property
    def install_command(self) -> str:
        """What installs it, at a version that goes with this dbrun."""
        return f"pip install 'dbrun[{self.extra}]'"
