"""The sheet at the end of a sweep: the sample pictures of its runs, a row each, under the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import UsageError
from dbrun.ui.terminal import print_status

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

MAX_ROWS = 24
"""Runs in a sheet at most: about 6,500 pixels high."""
MARK = {"Software": "dbrun sweep"}
"""Text in the metadata of a sheet, by which a later sweep knows that it may replace the file."""


def write_sweep_sheet(exports: Mapping[str, Path], path: Path) -> None:
    """Write the sheet and say where it is, or why there is none. exports: values of each run → its delivered folder.

    A file that no sweep wrote is left alone.
    """
    from dbrun.images.samples import comparison_grid

    shown = dict(list(exports.items())[:MAX_ROWS])
    if len(shown) < 2:
        return
    try:
        if not _is_replaceable(path):
            raise UsageError(f"{path} was not written by a sweep", fix="move it away")
        # runs that differ in their samples or bases do not belong in one sheet
        sheet = comparison_grid(shown)
        sheet.save(path, format="PNG", pnginfo=_metadata())
    except (UsageError, OSError) as error:
        print_status(f"no sheet of the runs: {error}")
        return
    left = f" (the first {MAX_ROWS} of {len(exports)} runs)" if len(shown) < len(exports) else ""
    print_status(f"sheet: {path}{left}")


def _metadata() -> PngInfo:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in MARK.items():
        info.add_text(key, value)
    return info


def _is_replaceable(path: Path) -> bool:
    from PIL import Image

    if not path.exists() and not path.is_symlink():
        return True
    try:
        with Image.open(path) as picture:
            return MARK.items() <= picture.info.items()
    except OSError:
        return False
