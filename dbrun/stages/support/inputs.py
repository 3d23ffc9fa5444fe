"""What stands in a file that the run was planned with, if it is still the same?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from dbrun.errors import StageFailed


def read_verified(files: Mapping[str, Path], digest: str) -> bytes:
    """The bytes of the file of this sha256. Raises StageFailed where it changed after the run began."""
    content = files[digest].read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise StageFailed(f"{files[digest]} changed after the run began", fix="run the same command again")
    return content
