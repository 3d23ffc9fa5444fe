"""What the verbs over the store do."""

from __future__ import annotations

import json

from dbrun.errors import StageFailed
from dbrun.store.store import Store, store_at_hand
from dbrun.ui.terminal import put, say


def show_rooms(*, as_json: bool) -> None:
    """Print what takes room."""
    from dbrun.disk_space import words
    from dbrun.store.gc import KEEP, sweep
    from dbrun.store.usage import rooms
    from dbrun.ui.store import room_table

    store = store_at_hand()
    found, free = rooms(store), sweep(store, KEEP, dry_run=True).bytes
    if as_json:
        put(json.dumps({"format_version": 1, "store": str(store.root), "gc_frees": free,
                        "parts": {part: vars(room) for part, room in found.items()}}, indent=1))
        return
    put(room_table(found))
    say(f"`dbrun gc` would free {words(free) if free else 'nothing'}")


def check_all(*, as_json: bool) -> bool:
    """Check the whole store; whether it was sound."""
    from dbrun.store.verify import check
    from dbrun.ui.store import report_lines
    from dbrun.ui.waiting import waiting

    with waiting("reading every byte in the store"):
        report = check(store_at_hand())
    put(json.dumps(report.as_json(), indent=1) if as_json else report_lines(report))
    return not report.findings


def collect(keep: int, *, dry_run: bool, as_json: bool) -> None:
    """Take away what nothing needs, or say what that would be."""
    from dbrun.store.gc import sweep
    from dbrun.ui.store import sweep_lines

    store = store_at_hand()
    if not dry_run:
        _writable(store)
    found = sweep(store, keep, dry_run=dry_run)
    put(json.dumps(found.as_json(), indent=1) if as_json else sweep_lines(found, dry_run))


def set_pin(word: str, *, off: bool) -> None:
    """Pin a run, or let it go."""
    from dbrun.store.runs import pin

    store = store_at_hand()
    _writable(store)
    put(pin(store, word, off=off).id)


def _writable(store: Store) -> None:
    if store.read_only:
        raise StageFailed(f"the store {store.root} can only be read", fix="ask its owner, or set DBRUN_STORE")
