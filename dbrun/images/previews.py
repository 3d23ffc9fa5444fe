"""The previews of a training in a run's folder, a sheet for each step, and the strip that is made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.images.grid import draw_grid, split_row
from dbrun.images.thumbnails import every_nth

if TYPE_CHECKING:
    from PIL.Image import Image

PREVIEW_NAME = re.compile(r"step-(\d+)\.png")
MAX_STRIP_STEPS = 16
"""Rows of a strip; of more steps, those that are shown are spread evenly, the first and the last among them."""


def preview_files(folder: Path) -> list[tuple[int, Path]]:
    """(step, sheet) of each preview in a folder, by step; [] where there is none."""
    found: list[tuple[int, Path]] = []
    try:
        paths = list(folder.iterdir())
    except OSError:
        return []
    for path in paths:
        named = PREVIEW_NAME.fullmatch(path.name)
        if named:
            found.append((int(named[1]), path))
    return sorted(found)


def read_preview(step: int, path: Path, columns: int) -> list[Image]:
    """The pictures of one sheet, RGB, one for each prompt. Raises OSError, ValueError or SyntaxError for another file.
    """
    from PIL import Image

    with Image.open(path) as sheet:
        return split_row(sheet.convert("RGB"), f"step {step}", columns)


def draw_strip(folder: Path, prompts: Sequence[str]) -> Image | None:
    """One picture of all previews in a folder: a row for each step, a column for each prompt; None without any.

    prompts: of the columns. Raises as `read_preview`.
    """
    files = preview_files(folder)
    if not files or not prompts:
        return None
    rows: list[tuple[str, Sequence[Image]]] = []
    for index in every_nth(len(files), MAX_STRIP_STEPS):
        step, path = files[index]
        rows.append((f"step {step}", read_preview(step, path, len(prompts))))
    return draw_grid(rows, prompts)
