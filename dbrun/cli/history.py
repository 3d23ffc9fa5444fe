"""The work of the verbs `runs`, `logs`, `diff` and `doctor`."""

from __future__ import annotations

import json

from dbrun.errors import UsageError
from dbrun.plan.diff_runs import compare_runs, find_run, read_events
from dbrun.store.runs import Run, list_runs
from dbrun.store.store import current_store
from dbrun.ui.terminal import pluralize, print_result, print_status


def show_runs(name: str | None, limit: int | None, *, as_json: bool) -> None:
    """List runs, each with the room that its results take; limit: at most so many, None for all."""
    from dbrun.store.usage import disk_usage_of_runs
    from dbrun.ui.history import run_table

    store = current_store()
    asked = [run for run in list_runs(store) if name in (None, run.name)]
    found = [(run, disk_usage_of_runs(store, [run]) if run.roots else 0) for run in asked[:limit]]
    if as_json:
        print_result(json.dumps({"format_version": 1,
                                 "runs": [{**_run_json(run), "bytes": size} for run, size in found]},
                                indent=1))
    elif found:
        print_result(run_table(found))
        if len(asked) > len(found):
            print_status(f"and {pluralize(len(asked) - len(found), 'earlier run')}; `dbrun ls` lists all")
    else:
        print_status(f"no runs{f' of {name}' if name else ''} in {store.root}")


def _run_json(run: Run) -> dict[str, object]:
    return {"id": run.id, "name": run.name, "state": run.state, "pinned": run.is_pinned, "last_event": run.last_event}


def show_log(word: str | None, *, as_json: bool) -> None:
    """Print what a run said."""
    from dbrun.ui.history import log_lines

    store = current_store()
    run = find_run(store, word) if word is not None else next(iter(list_runs(store)), None)
    if run is None:
        raise UsageError(f"there are no runs in {store.root}", fix="dbrun run RECIPE makes one")
    try:
        log = (run.folder / "log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = None
    said = read_events(run)
    if as_json:
        print_result(json.dumps({"format_version": 1, **_run_json(run), "events": said, "log": log}, indent=1))
        return
    print_status(f"{run.id}  {run.state}")
    print_result(log_lines(said, log))


def show_difference(first: str, second: str, *, as_json: bool) -> None:
    """Print how two runs differ."""
    from dbrun.ui.history import comparison

    store = current_store()
    a, b = find_run(store, first), find_run(store, second)
    found = compare_runs(store, a, b)
    print_result(json.dumps({"format_version": 1, "runs": [a.id, b.id], **found.as_json()}, indent=1) if as_json
                 else comparison(found, a, b))


def show_machine(*, as_json: bool) -> bool:
    """Print what this machine has; whether nothing is wrong."""
    from dbrun.plan.doctor import run_checks
    from dbrun.ui.doctor import checks_table

    found = run_checks(current_store())
    print_result(json.dumps({"format_version": 1, "checks": [check.as_json() for check in found]}, indent=1) if as_json
                 else checks_table(found))
    return all(check.state != "bad" for check in found)
