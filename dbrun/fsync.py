"""fsync of files and folders, so that a power cut cannot undo a finished write."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """fsync a file's bytes or a folder's entries. Raises OSError, but not where a file system cannot sync folders."""
    # a folder needs its own fsync after a rename: else the new name may be gone although the bytes are on the disk
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)
