"""The work of the verbs `du`, `verify`, `gc`, `pin` and `unpin`."""

from __future__ import annotations

import json

from dbrun.errors import StageFailed
from dbrun.store.store import Store, current_store
from dbrun.ui.terminal import print_result, print_status


def show_usage(*, as_json: bool) -> None:
    """Print the disk usage of each part of the store, and what a gc would free."""
    from dbrun.disk_space import format_bytes
    from dbrun.store.gc import DEFAULT_KEEP, collect_garbage
    from dbrun.store.usage import usage_by_part
    from dbrun.ui.store import usage_table

    store = current_store()
    usage = usage_by_part(store)
    freed = collect_garbage(store, DEFAULT_KEEP, dry_run=True).freed_bytes
    if as_json:
        parts = {part: vars(one) for part, one in usage.items()}
        print_result(json.dumps({"format_version": 1, "store": str(store.root), "gc_frees": freed, "parts": parts},
                                indent=1))
        return
    print_result(usage_table(usage))
    size = format_bytes(freed) if freed else "nothing"
    print_status(f"`dbrun gc` would free {size}")


def verify_all(*, as_json: bool) -> bool:
    """Read the whole store and print what is damaged; return whether nothing is."""
    from dbrun.store.verify import verify_store
    from dbrun.ui.store import verify_lines
    from dbrun.ui.waiting import show_elapsed

    with show_elapsed("reading every byte in the store"):
        report = verify_store(current_store())
    if as_json:
        print_result(json.dumps(report.to_json(), indent=1))
    else:
        print_result(verify_lines(report))
    return not report.findings


def run_gc(keep: int, *, dry_run: bool, as_json: bool, force: bool) -> None:
    """Remove what no kept run needs and print it; dry_run: only print. keep: newest runs of each name to keep.

    force: also where another machine works in the store and locks may not reach it.
    """
    from dbrun.store.gc import collect_garbage
    from dbrun.ui.store import gc_lines

    store = current_store()
    if not dry_run:
        _check_writable(store)
    report = collect_garbage(store, keep, dry_run=dry_run, force=force)
    if as_json:
        print_result(json.dumps(report.to_json(), indent=1))
    else:
        print_result(gc_lines(report, dry_run))


def set_pin(word: str, *, off: bool) -> None:
    """Pin a run, or with off remove its pin, and print its id. word: a run's id or name."""
    from dbrun.store.runs import pin

    store = current_store()
    _check_writable(store)
    print_result(pin(store, word, off=off).id)


def _check_writable(store: Store) -> None:
    # Asked first, so that the message names the store and not the first file that could not be written.
    if store.read_only:
        raise StageFailed(f"the store {store.root} is read-only", fix="ask its owner, or set DBRUN_STORE")
