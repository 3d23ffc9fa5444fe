"""What `plan --pictures` does once its words are understood."""

from __future__ import annotations

import json

from dbrun.cli.run import read
from dbrun.cli.words import Asked
from dbrun.resolve.picture_report import picture_rows
from dbrun.ui.pictures import table
from dbrun.ui.plan import remark
from dbrun.ui.terminal import put, say

FEW = 100
"""Pictures that are looked at without a word on how far it is."""


def show_pictures(asked: Asked, *, as_json: bool) -> None:
    """Show a row for each picture of the recipe. What was seen of them is remembered in the store."""
    loaded, located, store = read(asked, decode=True)
    store.prepare()

    def seen(done: int, total: int) -> None:
        if total > FEW and done % FEW == 0:
            say(f"looking at pictures: {done} of {total}")

    rows = picture_rows(loaded.recipe, located, store, seen)
    if as_json:
        put(json.dumps({"format_version": 1, "pictures": [row.as_data() for row in rows]}, indent=1))
        return
    for note in located.notes:
        say(remark(note))
    put(table(rows))
