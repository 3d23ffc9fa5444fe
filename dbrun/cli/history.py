"""The work of the verbs `runs`, `logs`, `diff` and `doctor`."""

from __future__ import annotations

import json

from dbrun.errors import UsageError
from dbrun.input_file import read_file
from dbrun.plan.diff_runs import compare_runs, find_run, read_events
from dbrun.store.runs import Run, list_runs
from dbrun.store.store import current_store
from dbrun.ui.terminal import pluralize, print_result, print_status

MAX_LOG_BYTES = 64 * 2**20
"""Largest log of tracebacks in bytes that is shown."""


def show_runs(name: str | None, limit: int | None, *, as_json: bool, as_markdown: bool = False) -> None:
    """Print the newest runs with the disk usage of their results. name: only runs of this name; limit: None for all."""
    from dbrun.store.usage import disk_usage_by_run
    from dbrun.ui.history import run_table, start_time

    store = current_store()
    matching = [run for run in list_runs(store) if name in (None, run.name)]
    # A run whose record is damaged is still listed; `verify` says what is wrong with it.
    listed = matching[:limit]
    shown = list(zip(listed, disk_usage_by_run(store, listed), strict=True))
    if as_json:
        runs = [{**_run_json(run), "bytes": size} for run, size in shown]
        print_result(json.dumps({"format_version": 1, "runs": runs}, indent=1))
    elif as_markdown:
        from dbrun.ui.markdown import runs_markdown

        print_result(runs_markdown([(run, size, start_time(run) or 0.0) for run, size in shown]))
    elif shown:
        print_result(run_table(shown))
        if len(matching) > len(shown):
            print_status(f"and {pluralize(len(matching) - len(shown), 'earlier run')}; `dbrun ls` lists all")
    else:
        of_name = f" of {name}" if name else ""
        print_status(f"no runs{of_name} in {store.root}")


def _run_json(run: Run) -> dict[str, object]:
    return {"id": run.id, "name": run.name, "state": run.state, "pinned": run.is_pinned, "last_event": run.last_event}


def show_log(word: str | None, *, as_json: bool) -> None:
    """Print the events of a run, and its traceback if it crashed. word: an id or a name; None: the newest run."""
    from dbrun.ui.history import log_lines

    store = current_store()
    if word is None:
        run = next(iter(list_runs(store)), None)
    else:
        run = find_run(store, word)
    if run is None:
        raise UsageError(f"there are no runs in {store.root}", fix="dbrun run RECIPE makes one")
    try:
        log = read_file(run.folder / "log", MAX_LOG_BYTES).decode(errors="replace")
    except OSError:
        # Only a run that crashed has a log.
        log = None
    events = read_events(run)
    if as_json:
        print_result(json.dumps({"format_version": 1, **_run_json(run), "events": events, "log": log}, indent=1))
        return
    print_status(f"{run.id}  {run.state}")
    print_result(log_lines(events, log))


def show_difference(first: str, second: str, *, as_json: bool) -> None:
    """Print how two runs differ. first, second: ids or names."""
    from dbrun.ui.history import comparison

    store = current_store()
    a, b = find_run(store, first), find_run(store, second)
    difference = compare_runs(store, a, b)
    if as_json:
        print_result(json.dumps({"format_version": 1, "runs": [a.id, b.id], **difference.to_json()}, indent=1))
    else:
        print_result(comparison(difference, a, b))


def show_machine(*, as_json: bool) -> bool:
    """Print the checks of this machine; return whether none of them is bad."""
    from dbrun.plan.doctor import run_checks
    from dbrun.ui.doctor import checks_table

    checks = run_checks(current_store())
    if as_json:
        print_result(json.dumps({"format_version": 1, "checks": [check.to_json() for check in checks]}, indent=1))
    else:
        print_result(checks_table(checks))
    return all(check.state != "bad" for check in checks)
