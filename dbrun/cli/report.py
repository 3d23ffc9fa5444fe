"""The work of the verb `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.store.runs import list_runs
from dbrun.store.store import current_store
from dbrun.ui.terminal import pluralize, print_result, print_status

HEAD_BYTES = 1024
"""Beginning of a page in bytes, within which its mark is."""


def write_report(words: Sequence[str], output: Path) -> None:
    """Write the page of one run or of several, and print its path. words: [] for the newest run.

    Raises UsageError for a run that is not there, and for a file that is no such page.
    """
    from dbrun.ui.report.compare_page import find_runs, render_comparison
    from dbrun.ui.report.record import RunReader
    from dbrun.ui.report.run_page import render_run

    store = current_store()
    runs = find_runs(store, words) if words else list_runs(store)[:1]
    if not runs:
        raise UsageError(f"there are no runs in {store.root}", fix="dbrun run RECIPE makes one")
    _check_output(output)
    if len(runs) == 1:
        print_status(f"of {runs[0].id}")
        text = render_run(RunReader(store), runs[0])
    else:
        print_status(f"of {pluralize(len(runs), 'run')}")
        text = render_comparison(store, runs)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    print_result(str(output))


def _check_output(output: Path) -> None:
    """Raise UsageError for a path that holds anything but an earlier page."""
    from dbrun.ui.report.page import MARK

    try:
        with output.open("rb") as file:
            is_ours = MARK.encode() in file.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}", fix="name another with -o") from None
    if not is_ours:
        raise UsageError(f"{output} exists already, and dbrun did not write it", fix="name another with -o")


def serve_reports(port: int | None) -> None:
    """Serve the pages of all runs until Ctrl-C, and print the address. Raises UsageError."""
    from dbrun.ui.report.serve import check_packages, open_socket, serve

    check_packages()
    opened = open_socket(port)
    host, chosen = opened.getsockname()
    print_result(f"http://{host}:{chosen}/")
    print_status("Ctrl-C ends it")
    with opened:
        serve(current_store(), opened)
