"""The work of `ls`, `du`, `verify` and `gc` with `--remote`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

from dbrun.errors import StageFailed, UsageError
from dbrun.store.remote import RemoteStore
from dbrun.store.remote_files import RemoteError
from dbrun.store.remote_settings import EXAMPLES, MODE_VARIABLE, configured_remote
from dbrun.store.remote_upkeep import (
    DEFAULT_DAYS,
    collect_remote_garbage,
    read_content,
    usage_by_part,
    verify_remote,
)
from dbrun.store.store import URL_VARIABLE
from dbrun.ui.store import remote_gc_lines, remote_results_table, usage_table, verify_lines
from dbrun.ui.terminal import print_result, print_status
from dbrun.ui.waiting import show_elapsed


def list_results(*, as_json: bool) -> None:
    """Print the results of stages in the remote store, the newest first."""
    with _opened() as remote, show_elapsed("listing the remote store"):
        results = read_content(remote.files).newest_results()
    if as_json:
        rows = [{"stage": trace.stage, "key": trace.key, "digest": trace.digest, "created": trace.created,
                 "seconds": trace.seconds, "bytes": trace.total_bytes,
                 "written": file.written} for file, trace in results]
        print_result(json.dumps({"format_version": 1, "results": rows}, indent=1))
    elif results:
        print_result(remote_results_table(results))
    else:
        print_status("no results in the remote store")


def show_remote_usage(*, as_json: bool) -> None:
    """Print the size of each part of the remote store."""
    with _opened() as remote, show_elapsed("listing the remote store"):
        usage = usage_by_part(read_content(remote.files))
    if as_json:
        parts = {part: vars(one) for part, one in usage.items()}
        print_result(json.dumps({"format_version": 1, "parts": parts}, indent=1))
    else:
        print_result(usage_table(usage))


def verify_remote_store(*, as_json: bool) -> bool:
    """Read the whole remote store and print what is damaged; return whether nothing is."""
    with _opened() as remote, show_elapsed("reading every byte in the remote store"):
        report = verify_remote(remote.files, remove=remote.mode == "rw")
    if as_json:
        print_result(json.dumps(report.to_json(), indent=1))
    else:
        print_result(verify_lines(report, "removed" if remote.mode == "rw" else "kept"))
    return not report.findings


def run_remote_gc(days: int | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove what no run has used for so many days and print it; dry_run: only print. days: None for the default."""
    with _opened() as remote:
        if remote.mode == "ro" and not dry_run:
            raise UsageError(f"found {MODE_VARIABLE}=ro, and a gc removes", fix="add --dry-run, or set it to rw")
        with show_elapsed("listing the remote store"):
            report = collect_remote_garbage(remote.files, DEFAULT_DAYS if days is None else days, dry_run=dry_run)
    if as_json:
        print_result(json.dumps(report.to_json(), indent=1))
    else:
        print_result(remote_gc_lines(report, dry_run))


@contextmanager
def _opened() -> Iterator[RemoteStore]:
    """Context manager: the remote store of the environment. A failure of the server becomes a StageFailed."""
    remote = configured_remote(os.environ)
    if remote is None:
        raise UsageError("no remote store is set", fix=f"set {URL_VARIABLE} to its URL, such as {EXAMPLES}")
    try:
        yield remote
    except RemoteError as error:
        raise StageFailed(f"the remote store failed: {error}", fix="try again later; nothing is lost") from error
