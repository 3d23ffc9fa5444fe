"""Download of one large file of the Hub that goes on where an earlier attempt was cut off.

The Hub's library (2.4) goes on only while it runs: a file's beginning has a random name, which is deleted after an
error and forgotten after a kill (huggingface_hub issue 4196). Here it is named by its content, so it is found again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from dbrun.errors import StageFailed

PART_SUFFIX = ".dbrun.incomplete"
"""End of the name of a file of which only the beginning is here."""


class LargeFile(NamedTuple):
    """A large file on the Hub. sha256: of its content, and its name among the cache's blobs; size: in bytes."""

    url: str
    sha256: str
    size: int


def part_size(blobs: Path, sha256: str) -> int:
    """Bytes that are here of a file that was cut off; 0 where there is nothing of it. blobs: the cache's folder."""
    try:
        return _part_path(blobs, sha256).stat().st_size
    except OSError:
        return 0


def fetch_large_file(file: LargeFile, blobs: Path, lock: Path) -> None:
    """Put a large file into the cache's folder `blobs`, unless it is there; what is here of it is not asked for again.

    lock: the file by which the Hub's library keeps two processes from fetching it twice. Raises StageFailed where its
    bytes are not those that the Hub names; the library's errors where the Hub cannot be reached.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    blob, part = blobs / file.sha256, _part_path(blobs, file.sha256)
    for folder in (blobs, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        # longer than the whole: such a part is of no use, and the Hub would refuse to go on behind its end
        if part_size(blobs, file.sha256) > file.size:
            part.unlink()
        with part.open("ab") as out:
            http_get(file.url, out, resume_size=out.tell(), headers=build_hf_headers(), expected_size=file.size)
        with part.open("rb") as made:
            found = hashlib.file_digest(made, "sha256").hexdigest()
        # also where a file system ignores locks, so that two processes wrote to one part
        if found != file.sha256:
            part.unlink()
            raise StageFailed(f"{file.url} arrived damaged: its sha256 is {found[:12]}…, not {file.sha256[:12]}…",
                              fix="run the same command again: this file is fetched from its start")
        part.replace(blob)


def _part_path(blobs: Path, sha256: str) -> Path:
    return blobs / f"{sha256}{PART_SUFFIX}"
