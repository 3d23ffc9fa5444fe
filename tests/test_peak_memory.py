"""Is the peak that of what a stage holds, and not of the files that it reads?"""

import mmap
from pathlib import Path

import pytest

from dbrun.peak_memory import PROC_CLEAR_REFS, PeakMemory, resident_bytes

SIZE = 48 << 20
PAGES = slice(None, None, mmap.PAGESIZE)


@pytest.mark.skipif(not PROC_CLEAR_REFS.exists(), reason="only Linux tells the peak and lets it begin anew")
def test_files_that_are_only_read_are_left_out_and_all_else_is_not(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(SIZE))

    def read_pages() -> None:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert not any(mapped[PAGES])

    peak = PeakMemory()
    peak.restart()
    start = resident_bytes()
    read_pages()
    assert peak.read() - start > SIZE * 0.9

    peak.restart()
    with peak.without_files():
        read_pages()
    assert peak.read() - start < SIZE * 0.2

    # what was there before, and what stays, count as always
    block = bytearray(SIZE)
    block[PAGES] = b"x" * len(block[PAGES])
    with peak.without_files():
        del block
        kept = bytearray(2 * SIZE)
        kept[PAGES] = b"x" * len(kept[PAGES])
    assert SIZE * 1.9 < peak.read() - start < SIZE * 2.2
