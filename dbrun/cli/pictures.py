"""The work of `plan --pictures`."""

from __future__ import annotations

import json

from dbrun.api.request import RecipeRequest
from dbrun.cli.run import read_request
from dbrun.resolve.picture_report import picture_rows
from dbrun.ui.pictures import picture_table
from dbrun.ui.plan import note_text
from dbrun.ui.terminal import print_result, print_status

REPORT_EVERY = 100
"""Pictures between two lines of progress; with fewer pictures there is none."""


def show_pictures(request: RecipeRequest, *, as_json: bool) -> None:
    """Print a row for each picture of the recipe. What is measured is cached in the store."""
    loaded, resolved, store = read_request(request, decode=True)
    store.prepare()

    def on_progress(done: int, total: int) -> None:
        if total > REPORT_EVERY and done % REPORT_EVERY == 0:
            print_status(f"looking at pictures: {done} of {total}")

    rows = picture_rows(loaded.recipe, resolved, store, on_progress)
    if as_json:
        print_result(json.dumps({"format_version": 1, "pictures": [row.as_data() for row in rows]}, indent=1))
        return
    for note in resolved.notes:
        print_status(note_text(note))
    print_result(picture_table(rows))
