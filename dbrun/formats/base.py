"""What is an export format: how is it written, and how does its own library read it back?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from dbrun.adapters.artifact import Attached
from dbrun.families.base import Family, Loaded
from dbrun.parts import subclasses


class Format:
    """One format; a subclass lives in a file of its own and sets NAME."""

    NAME: ClassVar[str]

    def write(self, folder: Path, family: Family, adapters: Mapping[str, Attached]) -> tuple[Path, ...]:
        """Write the adapters; the safetensors files written, for their provenance. Equal adapters, equal bytes."""
        raise NotImplementedError

    def read(self, folder: Path, family: Family, loaded: Loaded, components: tuple[str, ...]) -> None:
        """Put what stands in folder onto a fresh base, through the library that the format is of."""
        raise NotImplementedError


def formats() -> Mapping[str, Format]:
    """Every format that has a file here, by name."""
    return {c.NAME: c() for c in subclasses("dbrun.formats", Format)}
