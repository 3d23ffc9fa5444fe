"""The work of the verbs `du`, `verify`, `gc`, `pin` and `unpin`."""

from __future__ import annotations

import json

from dbrun.errors import StageFailed
from dbrun.store.store import Store, current_store
from dbrun.ui.terminal import print_result, print_status


def show_usage(*, as_json: bool) -> None:
    """Print what takes room."""
    from dbrun.disk_space import format_bytes
    from dbrun.store.gc import DEFAULT_KEEP, collect_garbage
    from dbrun.store.usage import usage_by_part
    from dbrun.ui.store import usage_table

    store = current_store()
    found, free = usage_by_part(store), collect_garbage(store, DEFAULT_KEEP, dry_run=True).freed_bytes
    if as_json:
        print_result(json.dumps({"format_version": 1, "store": str(store.root), "gc_frees": free,
                                 "parts": {part: vars(room) for part, room in found.items()}}, indent=1))
        return
    print_result(usage_table(found))
    print_status(f"`dbrun gc` would free {format_bytes(free) if free else 'nothing'}")


def verify_all(*, as_json: bool) -> bool:
    """Check the whole store; whether it was sound."""
    from dbrun.store.verify import verify_store
    from dbrun.ui.store import verify_lines
    from dbrun.ui.waiting import show_elapsed

    with show_elapsed("reading every byte in the store"):
        report = verify_store(current_store())
    print_result(json.dumps(report.as_json(), indent=1) if as_json else verify_lines(report))
    return not report.findings


def run_gc(keep: int, *, dry_run: bool, as_json: bool) -> None:
    """Take away what nothing needs, or say what that would be."""
    from dbrun.store.gc import collect_garbage
    from dbrun.ui.store import gc_lines

    store = current_store()
    if not dry_run:
        _check_writable(store)
    found = collect_garbage(store, keep, dry_run=dry_run)
    print_result(json.dumps(found.as_json(), indent=1) if as_json else gc_lines(found, dry_run))


def set_pin(word: str, *, off: bool) -> None:
    """Pin a run, or let it go."""
    from dbrun.store.runs import pin

    store = current_store()
    _check_writable(store)
    print_result(pin(store, word, off=off).id)


def _check_writable(store: Store) -> None:
    if store.read_only:
        raise StageFailed(f"the store {store.root} can only be read", fix="ask its owner, or set DBRUN_STORE")
