"""Versions of installed libraries, read from their metadata without importing them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache


def minor_versions(libraries: Sequence[str]) -> dict[str, str]:
    """The minor version of each installed library, such as {"torch": "2.13"}."""
    return {name: ".".join(installed_version(name).split(".")[:2]) for name in libraries}


@cache
def installed_version(library: str) -> str:
    """The installed version of a library, "absent" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution(library).read_text("METADATA") or ""
    except PackageNotFoundError:
        return "absent"
    # the metadata's own parser is made for mail and takes milliseconds for each library
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    return found[1] if found else "absent"
