"""A run's report: its facts are saved when the run begins, and the page is drawn when it delivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbrun.events import Emit, Note
from dbrun.run.run_log import RunLog
from dbrun.store.store import Store

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.planner import Plan, Scope

FACTS_FILE = "report.json"
"""File of the report's facts in the run's folder."""
ReportRenderer = Callable[[Store, str], bytes]
"""Draws the report of a run that has done all its work; takes the store and the run's id."""


@dataclass(frozen=True)
class ReportWriter:
    """Saves the facts of a run's report and draws it. An error in either never ends a run.

    written: the recipe as the user wrote it; known: stage → its estimate; renderer: None for a run without a report.
    """

    scope: Scope
    plan: Plan
    run_log: RunLog
    written: Mapping[str, object]
    known: Mapping[str, Estimate]
    renderer: ReportRenderer | None
    emit: Emit

    @property
    def is_active(self) -> bool:
        """Whether this run has a report; in a read-only store there is no folder for its facts."""
        return self.renderer is not None and not self.scope.store.read_only

    def save_facts(self) -> None:
        """Write the facts into the run's folder; nothing for a run without a report."""
        if not self.is_active:
            return
        from dbrun.run.report_facts import report_facts

        # any error: a page is an extra, and hours of training are worth more
        try:
            facts = report_facts(self.scope, self.plan, self.written, self.known)
            self.scope.store.write_json(f"runs/{self.run_log.folder.name}/{FACTS_FILE}", facts)
        except Exception as error:
            self._warn(error)

    def render(self) -> bytes | None:
        """The finished run's report.html; None where it cannot be drawn, which the user is told."""
        assert self.renderer is not None, "a run without a report draws none"
        # a run that found all its results saved no facts, and delivers only where the outputs are gone
        if not (self.run_log.folder / FACTS_FILE).exists():
            self.save_facts()
        try:
            return self.renderer(self.scope.store, self.run_log.folder.name)
        except Exception as error:
            self._warn(error)
            return None

    def _warn(self, error: Exception) -> None:
        message = (str(error).strip() or "no message").splitlines()[0][:200]
        self.emit(Note("report", f"no report: {type(error).__name__}: {message}", "warning"))
