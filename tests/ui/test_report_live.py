"""Is the live page written again while a run is at work, seldom enough, and never at the run's cost?"""

from pathlib import Path

import pytest
from recorded_runs import record_run

from dbrun.events import Event, Note, Progress, RunFailed, RunFinished, RunStarted
from dbrun.store.runs import Run
from dbrun.store.store import Store
from dbrun.ui.report import run_page
from dbrun.ui.report.live import COST_RATIO, MIN_SECONDS, LiveReport


class Watched:
    """A live report with a clock that the test moves, and a page that takes `cost` seconds."""

    def __init__(self, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
        self.now, self.states, self.told, self.run = 0.0, list[str](), list[Event](), run
        self.live = LiveReport(self.told.append, store, lambda: self.now)

        def render(reader: object, run: Run, *, state: str, **changes: object) -> str:
            self.now += cost
            self.states.append(state)
            return state

        monkeypatch.setattr(run_page, "render_run", render)

    def begin(self) -> None:
        self.live(RunStarted("r.yaml", "dog", self.run.id, ("train",)))

    def train(self, seconds: float, steps: int) -> None:
        for step in range(steps):
            self.now += seconds
            self.live(Progress("train", step, steps, "steps"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


@pytest.mark.parametrize("cost", [0.01, 0.5])
def test_it_costs_at_most_one_percent(store: Store, monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
    watched = Watched(store, record_run(store), monkeypatch, cost)
    watched.begin()
    watched.train(0.1, 6000)
    written = len(watched.states)
    assert 5 <= written <= 1 + 600 / max(MIN_SECONDS, cost * COST_RATIO)
    assert written * cost < 0.02 * 600


@pytest.mark.parametrize(("end", "state"), [
    (RunFinished(1, 0, 1.0), "done"), (RunFailed("train", "x", None, 1), "failed"),
    (RunFailed("train", "x", None, 130), "interrupted")])
def test_the_last_page_says_how_it_ended(store: Store, monkeypatch: pytest.MonkeyPatch, end: Event, state: str) -> None:
    watched = Watched(store, record_run(store), monkeypatch, 0.0)
    watched.begin()
    watched.live(end)
    assert watched.states == ["running", state]
    assert (watched.run.folder / "report.html").read_text() == state
    notes = [event.text for event in watched.told if isinstance(event, Note)]
    assert len(notes) == 1 and str(watched.run.folder / "report.html") in notes[0]


def test_a_run_without_work_has_no_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record_run(store)
    (run.folder / "report.json").unlink()
    watched = Watched(store, run, monkeypatch, 0.0)
    watched.begin()
    watched.live(RunFinished(0, 6, 0.1))
    assert watched.states == [] and not [event for event in watched.told if isinstance(event, Note)]


def test_a_page_that_fails_stops_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, record_run(store), monkeypatch, 0.0)

    def fail(*words: object, **changes: object) -> str:
        raise MemoryError

    monkeypatch.setattr(run_page, "render_run", fail)
    watched.begin()
    watched.train(10.0, 3)
    watched.live(RunFinished(1, 0, 1.0))
    assert len(watched.told) == 5 and not (watched.run.folder / "report.html").exists()
