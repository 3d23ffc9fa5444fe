"""The work of the verbs `status`, `explain`, `graph` and `lock`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.api.request import RecipeRequest
from dbrun.cli.run import read_request
from dbrun.cli.words import check_stage, request_or_default
from dbrun.events import TimeLeft
from dbrun.input_file import read_json
from dbrun.plan.planner import Plan, Scope, Status, make_scope, plan_scope
from dbrun.plan.selection import Selection
from dbrun.recipe.text.spans import display_path
from dbrun.safetensors_header import IN_PROGRESS, RECORD_FILE
from dbrun.store.runs import Run, list_runs
from dbrun.store.store import current_store
from dbrun.ui.terminal import print_result, print_status


@dataclass(frozen=True)
class _LiveProgress:
    """What a live run is at. at: such as "train 120/400 steps"; time_left: as it told last, None if it did not.

    elapsed: seconds since then.
    """

    at: str
    time_left: TimeLeft | None
    elapsed: float = 0.0


def _read_scope(words: Sequence[str], profiles: Sequence[str] | None,
                selection: Selection) -> tuple[RecipeRequest, Scope]:
    """The requested recipe and its scope. If no recipe is named, print which one was chosen, and why."""
    request, why = request_or_default(words, profiles, current_store())
    if why is not None:
        print_status(why)
    loaded, resolved, store = read_request(request)
    return request, make_scope(loaded.recipe, resolved, store, selection, None)


def show_explanation(stage: str, words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Print the explanation of a stage's key."""
    from dbrun.plan.explain import explain
    from dbrun.ui.explain import explanation

    check_stage(stage)
    _, scope = _read_scope(words, profiles, Selection(until=stage))
    result = explain(scope, stage)
    if as_json:
        print_result(json.dumps(result.to_json(), indent=1))
    else:
        print_result(explanation(result))


def show_graph(words: Sequence[str], profiles: Sequence[str] | None, *, mermaid: bool, as_json: bool) -> None:
    """Print the graph of a recipe's stages: as text, as Mermaid or as JSON."""
    from dbrun.ui import graph

    _, scope = _read_scope(words, profiles, Selection())
    plan, needs = plan_scope(scope), scope.selected_stages.needs
    if as_json:
        stages = [{"name": stage.name, "needs": list(needs[stage.name]), "status": stage.status.value}
                  for stage in plan.stages]
        print_result(json.dumps({"format_version": 1, "stages": stages}, indent=1))
    elif mermaid:
        print_result(graph.mermaid(plan, needs))
    else:
        print_result(graph.graph_text(plan, needs))


def show_status(words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Print the state of a recipe: its stages, its outputs and its last run."""
    from dbrun.ui.history import status_text

    request, scope = _read_scope(words, profiles, Selection())
    plan = plan_scope(scope)
    last = next((run for run in list_runs(scope.store) if run.name == scope.recipe.name), None)
    made = _stage_results(scope, plan)
    target = Path("outputs") / scope.recipe.name
    outputs = str(target), _outputs_state(target, plan, scope.delivering_stages)
    live = _live_progress(last) if last is not None and last.is_live else None
    if not as_json:
        at_work = _progress_text(live) if live else None
        print_result(status_text(plan, made, last, outputs, at_work))
        return
    last_run: dict[str, object] | None = None
    if last is not None:
        last_run = {"id": last.id, "state": last.state, "at": None, "seconds_left": None}
        if live is not None:
            last_run |= {"at": live.at, "seconds_left": _seconds_left(live)}
    document = {"format_version": 1, "recipe": str(request.recipe), "name": scope.recipe.name,
                "stages": plan.to_json()["stages"], "outputs": {"folder": outputs[0], "state": outputs[1]},
                "last_run": last_run}
    print_result(json.dumps(document, indent=1))


def _stage_results(scope: Scope, plan: Plan) -> Mapping[str, tuple[str, float]]:
    """Stage with a stored result → when the result was made, and the seconds that took."""
    results = {}
    for stage in plan.stages:
        if stage.status is not Status.HIT or not stage.key:
            continue
        trace = scope.store.traces.read(stage.name, stage.key)
        # A gc may have taken it since the plan was made.
        if trace is not None:
            results[stage.name] = trace.created, trace.seconds
    return results


def _outputs_state(target: Path, plan: Plan, delivering: Sequence[str]) -> str:
    """The state of the outputs, compared with what the recipe would deliver now. delivering: stages that deliver."""
    # By the record only: hashing gigabytes of exports would make `status` slow. `run` does check the bytes.
    try:
        record = read_json(target / RECORD_FILE)
        if IN_PROGRESS in record and "stages" not in record:
            return "in progress: only the pictures of its training so far"
        stages = record["stages"]
        delivered = {name: stages[name]["digest"] for name in delivering if name in stages}
    except FileNotFoundError:
        return "not there"
    except (OSError, ValueError, KeyError, TypeError):
        return "there, but not written by dbrun"
    if not delivered:
        return "there, but not written by dbrun"
    planned = [stage for stage in plan.stages if stage.name in delivering]
    if any(stage.status is not Status.HIT for stage in planned):
        return "of an earlier recipe"
    current = {stage.name: stage.digest for stage in planned}
    return "current" if delivered == current else "of an earlier recipe; dbrun run writes them again"


def _live_progress(run: Run) -> _LiveProgress | None:
    """The stage and progress of a live run, and the time left that it told last; None before its first stage."""
    from dbrun.plan.diff_runs import read_events

    events = read_events(run)
    progress = [event for event in events if event.get("event") in ("progress", "stage_started")]
    if not progress:
        return None
    last = progress[-1]
    done = f" {last['done']}/{last['total']} {last['unit']}" if last["event"] == "progress" else ""
    at = f"{last.get('stage')}{done}"
    # of the running stage only: between two stages what was told of the one before is no longer true
    told = [event for event in events if event.get("event") == "time_left" and event.get("stage") == last.get("stage")]
    if not told:
        return _LiveProgress(at, None)
    try:
        return _LiveProgress(at, _read_time_left(told[-1]), max(0.0, time.time() - float(str(told[-1]["time"]))))
    except (KeyError, TypeError, ValueError):
        # written by another version of dbrun
        return _LiveProgress(at, None)


def _read_time_left(event: Mapping[str, object]) -> TimeLeft:
    """The event as `to_json` wrote it. Raises KeyError, TypeError or ValueError where it is another."""
    unknown, known_with = event["unknown"], event["known_with"]
    if not isinstance(unknown, list):
        raise TypeError(f"unknown is {unknown!r}")
    stage_seconds = None
    if event["stage_seconds"] is not None:
        stage_seconds = float(str(event["stage_seconds"]))
    return TimeLeft(str(event["stage"]), float(str(event["seconds"])), stage_seconds, tuple(map(str, unknown)),
                    str(known_with) if known_with else None)


def _progress_text(live: _LiveProgress) -> str:
    """The progress in words, such as "train 120/400 steps, whole run: about 3 min left"."""
    from dbrun.ui.time_left import time_left_text

    if live.time_left is None:
        return live.at
    return f"{live.at}, {time_left_text(live.time_left, live.elapsed)}"


def _seconds_left(live: _LiveProgress) -> float | None:
    """Seconds that a live run still needs; None where those of a stage are not known."""
    told = live.time_left
    if told is None or told.unknown:
        return None
    return round(max(0.0, told.seconds - min(live.elapsed, told.stage_seconds or 0.0)), 1)


def make_lock(request: RecipeRequest, *, as_json: bool) -> None:
    """Write the lock file of a recipe, and print its path."""
    from dbrun.resolve.lock import check_unchanged_by_overrides, lock_contents, write_lock
    from dbrun.resolve.sources import pin_revision

    loaded, resolved, store = read_request(request)
    overrides_and_profiles = request.words[1:]
    if overrides_and_profiles:
        # The lock is of the recipe as written: overrides may be given, but must not change what it points at.
        as_written = read_request(RecipeRequest(request.recipe))[1]
        check_unchanged_by_overrides(loaded, resolved, as_written, overrides_and_profiles)
    resolved = pin_revision(loaded, resolved, store)
    target, changed = write_lock(loaded, resolved)
    if as_json:
        print_result(json.dumps({"file": str(target), "changed": changed, **lock_contents(resolved)}, indent=1))
        return
    state = "the lock is new" if changed else "the lock is unchanged"
    print_status(state)
    print_result(display_path(target))

