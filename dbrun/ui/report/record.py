"""A run as its report shows it, read from the run's folder and the store: any process can draw it, at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dbrun.errors import UsageError
from dbrun.images.samples import ADAPTED_ROW, BASE_ROW, SAMPLES_FOLDER, read_sample_settings
from dbrun.images.thumbnails import THUMBNAIL_SIDE
from dbrun.input_file import parse_json_lines, read_file, read_json_object
from dbrun.naming import METRICS_FILE
from dbrun.plan.diff_runs import MAX_EVENTS_BYTES
from dbrun.plan.memory import measured_memory
from dbrun.run.report_writer import FACTS_FILE
from dbrun.run.training_previews import find_previews
from dbrun.store.runs import EVENTS_FILE, RECIPE_FILE, Run
from dbrun.store.store import Store
from dbrun.store.traces import Trace
from dbrun.ui.report.pictures import ClassPictures, Picture, Preview, PreviewReader, read_class_pictures, read_row
from dbrun.ui.report.scores import Candidates, ScoreLine, read_candidates, read_scores

LOSSES = {"instance": "instance_loss", "class": "prior_loss", "held out": "held_out_loss"}
"""Name of a line of losses → its member of a line of metrics."""
MAX_LOG_BYTES = 64 * 2**10
"""End of a log of tracebacks that a report shows, in bytes."""


@dataclass(frozen=True)
class StageLine:
    """One stage of a run.

    state: done, cached, running, failed, waiting or blocked; why: it ran; seconds: it took, when its result was made;
    expected: seconds that were estimated; memory, counted: peak bytes, measured and counted beforehand.
    """

    name: str
    state: str
    why: str
    seconds: float | None
    expected: float | None
    memory: int | None
    counted: int | None


@dataclass(frozen=True)
class Comparison:
    """The pictures of before_after.png. pairs: (prompt, seed, picture of the base, picture of the adapter)."""

    pairs: tuple[tuple[str, int, str, str], ...]
    steps: int
    guidance: float


@dataclass(frozen=True)
class RunReport:
    """All that the page of a run shows.

    state: as of `Run`; error: of a failed run: message, fix and log; progress: the newest progress event of a running
    stage; warnings: stage and text; recipe: the whole recipe as data; facts: those that the run saved, {} without.
    """

    run: Run
    state: str
    started: str
    seconds: float | None
    error: Mapping[str, str]
    progress: Mapping[str, Any]
    seconds_left: float | None
    stages: tuple[StageLine, ...]
    warnings: tuple[tuple[str, str], ...]
    losses: Mapping[str, Sequence[tuple[float, float]]]
    steps_done: int
    comparison: Comparison | None
    scores: tuple[ScoreLine, ...]
    candidates: Candidates | None
    previews: tuple[Preview, ...]
    prompts: tuple[str, ...]
    pictures: tuple[Picture, ...]
    picture_counts: Mapping[str, int]
    class_pictures: ClassPictures
    export: Trace | None
    recipe: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def has_masks(self) -> bool:
        """Whether masks hide parts of the pictures."""
        images = self.recipe.get("images") or {}
        return bool(images.get("masks", "none") != "none")


@dataclass
class RunReader:
    """Reads runs again and again, and keeps the thumbnails that it has made. side: of sample pictures, in pixels."""

    store: Store
    side: int = THUMBNAIL_SIDE
    previews: PreviewReader = field(default_factory=PreviewReader)

    def read(self, run: Run, *, state: str | None = None, brief: bool = False) -> RunReport:
        """The report of a run as it is now.

        state: where the run is about to record it itself; brief: without previews and class images.
        """
        facts = read_json_object(run.folder / FACTS_FILE)
        recipe = facts.get("recipe") or read_json_object(run.folder / RECIPE_FILE)
        events, progress = read_run_events(run.folder / EVENTS_FILE)
        traces = self._traces(run)
        state = state or run.state
        running = _running_stage(events) if state == "running" else None
        train_key = run.roots.keys.get("train") if run.roots else None
        own_prompts = tuple(map(str, facts.get("prompts") or ()))
        previews, prompts = find_previews(self.store, run.folder, train_key, own_prompts)
        rows = _read_metrics(run, traces.get("train"), self.store)
        return RunReport(
            run=run, state=state, started=_started(run), seconds=_seconds(events),
            error=_error(run, events), seconds_left=_seconds_left(events) if running else None,
            progress=progress if running and progress.get("stage") == running else {},
            stages=_stage_lines(facts, events, traces, state), warnings=_warnings(events),
            losses=_losses(rows), steps_done=len(rows), comparison=self._comparison(traces.get("export")),
            scores=self._scores(traces.get("evaluate"), recipe), candidates=self._candidates(traces.get("select")),
            previews=() if brief else self.previews.read(previews, prompts), prompts=prompts,
            pictures=tuple(Picture.from_facts(one) for one in facts.get("pictures") or ()),
            picture_counts=facts.get("picture_counts") or {},
            class_pictures=ClassPictures() if brief else self._class_pictures(traces.get("generate-priors")),
            export=traces.get("export"), recipe=recipe, facts=facts)

    def _traces(self, run: Run) -> dict[str, Trace]:
        """Stage → the record of its result, as far as the run came and the results are still there."""
        found: dict[str, Trace] = {}
        for stage, key in (run.roots.keys if run.roots else {}).items():
            try:
                trace = self.store.traces.read(stage, key)
            except ValueError:
                # a damaged key costs one section of the page
                continue
            if trace is not None and self.store.objects.path(trace.digest).is_dir():
                found[stage] = trace
        return found

    def _class_pictures(self, priors: Trace | None) -> ClassPictures:
        params = priors.document.get("params") if priors else None
        if priors is None or not isinstance(params, dict):
            return ClassPictures()
        return read_class_pictures(self.store.objects.path(priors.digest), params)

    def _scores(self, evaluated: Trace | None, recipe: Mapping[str, Any]) -> tuple[ScoreLine, ...]:
        if evaluated is None:
            return ()
        return read_scores(self.store.objects.path(evaluated.digest), recipe)

    def _candidates(self, selected: Trace | None) -> Candidates | None:
        return read_candidates(self.store.objects.path(selected.digest)) if selected else None

    def _comparison(self, export: Trace | None) -> Comparison | None:
        """The sample pictures of an export; None where there are none."""
        if export is None:
            return None
        folder = self.store.objects.path(export.digest)
        try:
            drawn = read_sample_settings(folder)
            base = read_row(folder / SAMPLES_FOLDER / BASE_ROW, len(drawn.prompts), self.side)
            adapted = read_row(folder / SAMPLES_FOLDER / ADAPTED_ROW, len(drawn.prompts), self.side)
        except (OSError, UsageError):
            return None
        pairs = tuple((prompt, drawn.seed + column, base[column], adapted[column])
                      for column, prompt in enumerate(drawn.prompts))
        return Comparison(pairs, drawn.steps, drawn.guidance)


def read_run_events(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The events of a run without its progress, and the newest progress event; empty where there are none."""
    try:
        lines = read_file(path, MAX_EVENTS_BYTES).splitlines()
    except OSError:
        return [], {}
    others: list[bytes] = []
    progress = b""
    for line in lines:
        # a training writes one for each step: of ten thousand only the newest is parsed
        if b'"event": "progress"' in line[:64]:
            progress = line
        else:
            others.append(line)
    newest = parse_json_lines([progress])
    return parse_json_lines(others), newest[0] if newest else {}


def _started(run: Run) -> str:
    """The run's start in UTC, from its id: `2026-11-30 06:41`."""
    stamp = run.id
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[9:11]}:{stamp[11:13]} UTC"


def _seconds(events: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of the run: those that it says itself, else those between its events."""
    for event in reversed(events):
        if event.get("event") == "run_finished":
            return float(event["seconds"])
    times = [event["time"] for event in events if isinstance(event.get("time"), (int, float))]
    return times[-1] - times[0] if times else None


def _running_stage(events: Sequence[Mapping[str, Any]]) -> str | None:
    """The stage that has begun and not ended."""
    running: str | None = None
    for event in events:
        if event.get("event") == "stage_started":
            running = str(event.get("stage"))
        elif event.get("event") == "stage_finished":
            running = None
    return running


def _seconds_left(events: Sequence[Mapping[str, Any]]) -> float | None:
    for event in reversed(events):
        if event.get("event") == "time_left" and isinstance(event.get("seconds"), (int, float)):
            return float(event["seconds"])
    return None


def _error(run: Run, events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Message, fix and log of a run that failed; {} for any other."""
    failed = next((event for event in reversed(events) if event.get("event") == "run_failed"), None)
    if failed is None:
        return {}
    error = {"message": str(failed.get("message") or ""), "fix": str(failed.get("fix") or ""), "log": ""}
    try:
        log = read_file(run.folder / "log", MAX_EVENTS_BYTES)
    except OSError:
        # only a crash leaves one
        return error
    return {**error, "log": log[-MAX_LOG_BYTES:].decode(errors="replace")}


def _warnings(events: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    found: dict[tuple[str, str], None] = {}
    for event in events:
        if event.get("event") == "note" and event.get("level") == "warning":
            found[str(event.get("stage")), str(event.get("text"))] = None
    return tuple(found)


def _stage_lines(facts: Mapping[str, Any], events: Sequence[Mapping[str, Any]], traces: Mapping[str, Trace],
                 state: str) -> tuple[StageLine, ...]:
    """A line for each stage of the run, in order."""
    planned: dict[str, Mapping[str, Any]] = {str(stage["name"]): stage for stage in facts.get("stages") or ()}
    by_kind: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in events:
        by_kind[str(event.get("event")), str(event.get("stage"))] = event
        if event.get("event") == "run_started":
            # a run without facts still says which stages it has
            planned = planned or {str(name): {} for name in event.get("stages") or ()}
    lines: list[StageLine] = []
    for name, plan in planned.items():
        started, finished = by_kind.get(("stage_started", name)), by_kind.get(("stage_finished", name))
        trace, reused = traces.get(name), by_kind.get(("stage_reused", name))
        why = str(started.get("reason") if started else plan.get("reason") or "")
        if finished:
            now = "done"
        elif reused:
            now, why = "cached", ""
        elif started:
            now = {"running": "running", "done": "done"}.get(state, state)
        else:
            now = "blocked" if plan.get("status") == "blocked" else "waiting"
        seconds = trace.seconds if trace and now in ("done", "cached") else None
        memory = measured_memory(trace) if trace and seconds is not None else None
        lines.append(StageLine(name, now, why, seconds, plan.get("expected"), memory, plan.get("counted")))
    return tuple(lines)


def _read_metrics(run: Run, train: Trace | None, store: Store) -> list[dict[str, Any]]:
    """The metrics of the steps so far: of the training's result, or of a training that is not complete."""
    folders = [store.objects.path(train.digest)] if train else []
    for folder in (*folders, run.folder):
        try:
            lines = read_file(folder / METRICS_FILE, MAX_EVENTS_BYTES).splitlines()
        except OSError:
            continue
        # a plain reader: `parse_json` looks for deep nesting, which is slow for ten thousand lines of our own
        rows: list[dict[str, Any]] = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows
    return []


def _losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Name of a line → its points (step, loss); without lines that have none. A loss of NaN is among them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, key in LOSSES.items():
        points = [(float(row["step"]), float(row[key])) for row in rows
                  if isinstance(row.get(key), (int, float)) and "step" in row]
        if points:
            found[name] = points
    if "class" not in found and "held out" not in found and "instance" in found:
        return {"loss": found["instance"]}
    return found
