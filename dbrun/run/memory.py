"""How much memory did a piece of work take at most?"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PROC_STATUS, PROC_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int]]:
    """Inside the block, bytes at most since its beginning: of the GPU where one computes, else of this process.

    0 where the system does not tell.
    """
    with suppress(OSError):
        PROC_CLEAR_REFS.write_text("5", encoding="ascii")
    cuda = _active_cuda() if device == "cuda" else None
    if cuda is not None:
        cuda.reset_peak_memory_stats()

    def most() -> int:
        used = _active_cuda() if device == "cuda" else None
        return int(used.max_memory_allocated()) if used is not None else _peak_resident()

    yield most


def _active_cuda() -> Any | None:
    """torch.cuda, once it is at work."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _peak_resident() -> int:
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", PROC_STATUS.read_text(encoding="ascii", errors="replace"),
                          re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
