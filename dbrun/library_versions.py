"""Versions of installed libraries, read from their metadata without importing them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache


def minor_versions(libraries: Sequence[str]) -> dict[str, str]:
    """Library → major and minor version, such as {"torch": "2.13"}; "absent" where it is not installed."""
    versions: dict[str, str] = {}
    for name in libraries:
        # a bug-fix release is taken to change no result, so that it does not invalidate the store
        major_minor = installed_version(name).split(".")[:2]
        versions[name] = ".".join(major_minor)
    return versions


@cache
def installed_version(library: str) -> str:
    """Installed version of a library; "absent" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        text = distribution(library).read_text("METADATA") or ""
    except PackageNotFoundError:
        return "absent"
    # importlib's own parser is an e-mail parser that takes milliseconds per library
    match = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    if match is None:
        return "absent"
    return match[1]
