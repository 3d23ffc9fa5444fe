"""The work of `plan --pictures`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dbrun.api.request import RecipeRequest
from dbrun.cli.run import read_request
from dbrun.errors import UsageError
from dbrun.recipe.load import LoadedRecipe
from dbrun.resolve.picture_report import PictureRow, picture_rows
from dbrun.resolve.sources import ResolvedSources
from dbrun.ui.pictures import choose_for_sheet, picture_table, sheet_sections
from dbrun.ui.plan import note_text
from dbrun.ui.terminal import print_result, print_status

REPORT_EVERY = 100
"""Pictures between two lines of progress; with fewer pictures there is none."""
IMAGE_SUFFIX = ".png"
"""Ending of a contact sheet's name."""


def show_pictures(request: RecipeRequest, output: Path | None, *, as_json: bool) -> None:
    """Print a row for each picture of the recipe. What is measured is cached in the store.

    output: the contact sheet to write, None for none. Raises UsageError for a path that cannot be written.
    """
    if output is not None:
        _check_output(output)
    loaded, resolved, store = read_request(request, decode=True)
    store.prepare()

    def on_progress(done: int, total: int) -> None:
        if total > REPORT_EVERY and done % REPORT_EVERY == 0:
            print_status(f"looking at pictures: {done} of {total}")

    rows = picture_rows(loaded.recipe, resolved, store, on_progress)
    if as_json:
        print_result(json.dumps({"format_version": 1, "pictures": [row.as_data() for row in rows]}, indent=1))
    else:
        for note in resolved.notes:
            print_status(note_text(note))
        print_result(picture_table(rows))
    if output is not None:
        _write_sheet(loaded, resolved, rows, output)
    elif not as_json:
        print_status("add -o sheet.png to see them as they are cropped")


def _check_output(output: Path) -> None:
    """Raise UsageError for a file that is no PNG, before the pictures are looked at."""
    if output.suffix.lower() != IMAGE_SUFFIX:
        raise UsageError(f"found -o {output}; the sheet is a PNG", fix=f"-o {output.with_suffix(IMAGE_SUFFIX)}")
    if not output.parent.is_dir():
        raise UsageError(f"there is no folder {output.parent}", fix="make it, or name another file")


def _write_sheet(loaded: LoadedRecipe, resolved: ResolvedSources, rows: Sequence[PictureRow], output: Path) -> None:
    """Draw the contact sheet and write it; a file of that name is replaced."""
    from dbrun.images.contact_sheet import draw_contact_sheet
    from dbrun.images.grid import save_png
    from dbrun.resolve.picture_crops import draw_crops, pictures_of_rows

    pictures = pictures_of_rows(resolved)
    chosen = choose_for_sheet(rows)
    chosen_rows = [rows[index] for index in chosen]
    crops = draw_crops(loaded.recipe, resolved, [(rows[index], pictures[index]) for index in chosen])
    sections = sheet_sections(loaded.recipe.name, rows, list(zip(chosen_rows, crops, strict=True)))
    try:
        save_png(draw_contact_sheet(sections), output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    shown = "" if len(chosen) == len(rows) else f": {len(chosen)} of {len(rows)} pictures, the odd ones first"
    print_status(f"written: {output}{shown}")
