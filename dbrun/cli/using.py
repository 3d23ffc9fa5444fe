"""The work of the verbs `sample`, `merge`, `convert` and `push`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.events import Emit, Event, Note
from dbrun.naming import REPORT_FILE
from dbrun.ui.terminal import pluralize, print_result, print_status, print_warning

if TYPE_CHECKING:
    from dbrun.api.results import WrittenAdapter
    from dbrun.use.sample import SampleRequest


def draw_samples(words: Sequence[str], wish: SampleRequest, base: str | None, like: str | None, precision: str,
                 output: Path | None) -> None:
    """Sample a prompt with adapters; print the path of the picture grid. words: the adapters, then the prompt."""
    from contextlib import closing
    from dataclasses import replace

    from dbrun.api.use import draw_sample
    from dbrun.ui.progress import make_reporter
    from dbrun.use.adapter_files import split_adapters_and_prompt
    from dbrun.workers.env import let_idle_threads_sleep

    let_idle_threads_sleep()
    # For its error only: without a prompt the last adapter would stand in its place.
    split_adapters_and_prompt(words)
    *adapters, prompt = words
    with closing(make_reporter(as_json=False)) as reporter:
        done = draw_sample(adapters, replace(wish, prompt=prompt), base, like, precision, output, None,
                           partial(_report, reporter), None)
    print_result(str(done.grid))


def _report(reporter: Emit | None, event: Event) -> None:
    """Pass progress on, and print notes without the name of a stage: these verbs have no stages."""
    if not isinstance(event, Note):
        if reporter is not None:
            reporter(event)
    elif event.level == "warning":
        print_warning(event.text)
    else:
        print_status(event.text)


def merge_files(words: Sequence[str], how: str, to: str | None, base: str | None, like: str | None,
                output: Path) -> None:
    """Merge adapters into one file, and print its path. words: ADAPTER[:WEIGHT]. Raises UsageError."""
    from dbrun.api.files import write_merged
    from dbrun.workers.env import let_idle_threads_sleep

    let_idle_threads_sleep()
    _print_written(write_merged(words, output, how, to, base, like, None, partial(_report, None)))


def convert_file(word: str, to: str, base: str | None, like: str | None, output: Path | None) -> None:
    """Write an adapter in another format, print what is lost, and its path. word: ADAPTER. Raises UsageError."""
    from dbrun.api.files import write_converted
    from dbrun.workers.env import let_idle_threads_sleep

    let_idle_threads_sleep()
    _print_written(write_converted(word, to, output, base, like, None, partial(_report, None)))


def push_folder(folder: Path, repo: str, *, public: bool, dry_run: bool) -> None:
    """Upload a delivered folder to the Hub, and print its address there. repo: OWNER/NAME; dry_run: only list files."""
    from dbrun.disk_space import format_bytes
    from dbrun.use.publish import prepare_upload, upload

    prepared = prepare_upload(folder, repo, private=not public)
    for name, size in prepared.files.items():
        print_status(f"{format_bytes(size):>9}  {name}")
    visibility = "private" if prepared.private else "public"
    total = format_bytes(sum(prepared.files.values()))
    if (folder / REPORT_FILE).is_file():
        print_status(f"not sent: {REPORT_FILE}, which shows the training pictures")
    # Of an existing repository nothing is changed but its files.
    print_status(f"{pluralize(len(prepared.files), 'file')}, {total} → {repo}, {visibility} if it is new")
    if dry_run:
        print_status("dry run: nothing was sent; leave out --dry-run to send it")
    else:
        print_result(upload(prepared))


def _print_written(written: WrittenAdapter) -> None:
    from dbrun.formats.roundtrip import describe_difference

    print_status(f"{written.format}: read back by its own library, {describe_difference(written.difference)}")
    print_result(str(written.path))
