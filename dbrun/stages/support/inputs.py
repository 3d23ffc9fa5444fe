"""Reading of input files, checked against the digest that the run was planned with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from dbrun.errors import StageFailed


def read_verified(files: Mapping[str, Path], digest: str) -> bytes:
    """The bytes of the file with this sha256. Raises StageFailed where the file changed after the run began."""
    # the digest is part of the cache key: other bytes under it would be a wrong result that is found again
    content = files[digest].read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise _changed(files[digest])
    return content


def verified_path(files: Mapping[str, Path], digest: str) -> Path:
    """The file with this sha256, which may be larger than memory. Raises StageFailed as `read_verified` does."""
    path = files[digest]
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise _changed(path)
    return path


def _changed(path: Path) -> StageFailed:
    return StageFailed(f"{path} changed after the run began", fix="run the same command again")
