"""Optional packages: third-party packages that only some options need, and the command that installs each."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class OptionalPackage:
    """A package that not every recipe needs.

    name: as pip knows it; module: the name to import; extra: the extra of dbrun that installs it.
    """

    name: str
    module: str
    extra: str

    @property
    def is_installed(self) -> bool:
        """Whether the package can be imported."""
        # find_spec imports nothing: wandb or bitsandbytes would take seconds to load
        return find_spec(self.module) is not None

    @property
    def install_command(self) -> str:
        """Shell command that installs the package in a version that fits this dbrun."""
        return f"pip install 'dbrun[{self.extra}]'"
