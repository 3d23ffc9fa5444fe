"""The run's name in delivered files: as the name of the kohya file, in headers of adapters and in the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from dbrun.formats.kohya import FILE, NAME_PLACEHOLDER
from dbrun.formats.shown_metadata import set_name
from dbrun.naming import file_name_key

CARD = "README.md"


def delivered_names(files: Iterable[str], run_name: str) -> Mapping[str, str]:
    """File of an export -> its name in the delivered folder."""
    names = {file: file for file in files}
    # A1111 and ComfyUI list files by their names.
    named = f"{run_name}{Path(FILE).suffix}"
    # A run can be called as another file of the delivery is; the kohya file then keeps its own name.
    taken = {file_name_key(file) for file in names if file != FILE}
    if FILE in names and file_name_key(named) not in taken:
        names[FILE] = named
    return names


def write_run_name(copy: Path, run_name: str, names: Mapping[str, str]) -> bool:
    """Write the name into a delivered header or model card; returns whether the copy changed.

    names: what `delivered_names` gave.
    """
    if copy.suffix == ".safetensors":
        return set_name(copy, run_name)
    if copy.name != CARD:
        return False
    stored = copy.read_text(encoding="utf-8")
    text = stored.replace(NAME_PLACEHOLDER, run_name)
    for old, new in names.items():
        if old != new:
            text = text.replace(f"`{old}`", f"`{new}`")
    copy.write_text(text, encoding="utf-8")
    return text != stored
