"""The live page of a run: written again into the run's folder as events come, at a bounded cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.events import Emit, Event, LibrariesLoading, Note, RunFailed, RunFinished, RunStarted, TimeLeft
from dbrun.naming import REPORT_FILE
from dbrun.run.report_writer import FACTS_FILE
from dbrun.store.atomic import replace_file
from dbrun.store.runs import read_run
from dbrun.store.store import Store

if TYPE_CHECKING:
    from dbrun.ui.report.record import RunReader

MIN_SECONDS = 5.0
"""Seconds between two writings at least; the page reads itself again as often."""
COST_RATIO = 100.0
"""Seconds between two writings, as a multiple of what one takes: the page costs a training at most 1 %."""
QUIET_EVENTS = (TimeLeft, LibrariesLoading)
"""Events that change nothing on the page that the next event would not change, too."""


class LiveReport:
    """Passes a run's events on, and keeps `report.html` in the run's folder up to date.

    An error in this never ends a run: the page then stays as it is.
    """

    def __init__(self, emit: Emit, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._store, self._clock = emit, store, clock
        self._run_id: str | None = None
        self._reader: RunReader | None = None
        self._next_at = 0.0

    def __call__(self, event: Event) -> None:
        """Pass one event on, then write the page if that is due."""
        self._emit(event)
        match event:
            case RunStarted():
                self._begin(event.run_id)
            case RunFinished():
                self._end("done")
            case RunFailed():
                # as in a shell: 128 + the number of the signal that stopped it
                self._end("interrupted" if event.exit_code > 128 else "failed")
            case _ if not isinstance(event, QUIET_EVENTS) and self._clock() >= self._next_at:
                self._write("running")

    @property
    def _folder(self) -> Path:
        assert self._run_id is not None, "only a run that has begun has a folder"
        return self._store.runs / self._run_id

    def _begin(self, run_id: str) -> None:
        """Write the first page and say where it is; nothing for a run that finds all its results in the store."""
        self._run_id = run_id
        # the run saves the facts of its report only where it has work to do
        if not (self._folder / FACTS_FILE).exists():
            self._run_id = None
            return
        self._write("running")
        if (self._folder / REPORT_FILE).exists():
            self._emit(Note("report", f"to watch it in a browser: {self._folder / REPORT_FILE}"))

    def _end(self, state: str) -> None:
        """Write the last page: it no longer reads itself again."""
        self._write(state)
        self._run_id = None

    def _write(self, state: str) -> None:
        if self._run_id is None:
            return
        # imported here: a run without work starts without the templates
        from dbrun.ui.report.record import RunReader
        from dbrun.ui.report.run_page import render_run

        began = self._clock()
        self._reader = self._reader or RunReader(self._store)
        # any error: a page is an extra, and hours of training are worth more
        with suppress(Exception):
            text = render_run(self._reader, read_run(self._folder), state=state, live=round(MIN_SECONDS),
                              written=round(time.time()))
            replace_file(self._folder / REPORT_FILE, text.encode(), scratch=self._store.scratch, durable=False)
        now = self._clock()
        self._next_at = now + max(MIN_SECONDS, COST_RATIO * (now - began))
