"""What the verbs over runs on record do."""

from __future__ import annotations

import json

from dbrun.errors import UsageError
from dbrun.plan.diff_runs import compare, events, find_run
from dbrun.store.runs import Run, runs
from dbrun.store.store import store_at_hand
from dbrun.ui.terminal import counted, put, say


def show_runs(name: str | None, limit: int | None, *, as_json: bool) -> None:
    """List runs, each with the room that its results take; limit: at most so many, None for all."""
    from dbrun.store.usage import of_runs
    from dbrun.ui.history import run_table

    store = store_at_hand()
    asked = [run for run in runs(store) if name in (None, run.name)]
    found = [(run, of_runs(store, [run]) if run.wants else 0) for run in asked[:limit]]
    if as_json:
        put(json.dumps({"format_version": 1, "runs": [{**_plain(run), "bytes": size} for run, size in found]},
                       indent=1))
    elif found:
        put(run_table(found))
        if len(asked) > len(found):
            say(f"and {counted(len(asked) - len(found), 'earlier run')}; `dbrun ls` lists all")
    else:
        say(f"no runs{f' of {name}' if name else ''} in {store.root}")


def _plain(run: Run) -> dict[str, object]:
    return {"id": run.id, "name": run.name, "state": run.state, "pinned": run.pinned, "last_event": run.ended}


def show_log(word: str | None, *, as_json: bool) -> None:
    """Print what a run said."""
    from dbrun.ui.history import log_lines

    store = store_at_hand()
    run = find_run(store, word) if word is not None else next(iter(runs(store)), None)
    if run is None:
        raise UsageError(f"there are no runs in {store.root}", fix="dbrun run RECIPE makes one")
    try:
        log = (run.folder / "log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        log = None
    said = events(run)
    if as_json:
        put(json.dumps({"format_version": 1, **_plain(run), "events": said, "log": log}, indent=1))
        return
    say(f"{run.id}  {run.state}")
    put(log_lines(said, log))


def show_difference(first: str, second: str, *, as_json: bool) -> None:
    """Print how two runs differ."""
    from dbrun.ui.history import comparison

    store = store_at_hand()
    a, b = find_run(store, first), find_run(store, second)
    found = compare(store, a, b)
    put(json.dumps({"format_version": 1, "runs": [a.id, b.id], **found.as_json()}, indent=1) if as_json
        else comparison(found, a, b))


def show_machine(*, as_json: bool) -> bool:
    """Print what this machine has; whether nothing is wrong."""
    from dbrun.plan.doctor import checks
    from dbrun.ui.doctor import examined

    found = checks(store_at_hand())
    put(json.dumps({"format_version": 1, "checks": [check.as_json() for check in found]}, indent=1) if as_json
        else examined(found))
    return all(check.state != "bad" for check in found)
