"""The work of the verbs `status`, `explain`, `graph` and `lock`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbrun.cli.run import read_request
from dbrun.cli.words import RecipeRequest, check_stage, request_or_default
from dbrun.plan.planner import Plan, Scope, Status, make_scope, plan_scope
from dbrun.plan.selection import Selection
from dbrun.recipe.text.spans import display_path
from dbrun.safetensors_header import RECORD_FILE
from dbrun.store.runs import Run, list_runs
from dbrun.store.store import current_store
from dbrun.ui.terminal import print_result, print_status


def _read_scope(words: Sequence[str], profiles: Sequence[str] | None,
                selection: Selection) -> tuple[RecipeRequest, Scope]:
    """The recipe that words name, or the one at hand, which is then said."""
    asked, why = request_or_default(words, profiles, current_store())
    if why is not None:
        print_status(why)
    loaded, resolved, store = read_request(asked)
    return asked, make_scope(loaded.recipe, resolved, store, selection, None)


def show_explanation(stage: str, words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Take the key of a stage apart."""
    from dbrun.plan.explain import explain
    from dbrun.ui.explain import explanation

    check_stage(stage)
    _, scope = _read_scope(words, profiles, Selection(until=stage))
    found = explain(scope, stage)
    print_result(json.dumps(found.as_json(), indent=1) if as_json else explanation(found))


def show_graph(words: Sequence[str], profiles: Sequence[str] | None, *, mermaid: bool, as_json: bool) -> None:
    """Draw the stages."""
    from dbrun.ui import graph

    _, scope = _read_scope(words, profiles, Selection())
    plan, needs = plan_scope(scope), scope.selected_stages.needs
    if as_json:
        print_result(json.dumps({"format_version": 1, "stages": [
                     {"name": one.name, "needs": list(needs[one.name]), "status": one.status.value}
                     for one in plan.stages]},
                     indent=1))
    else:
        print_result(graph.mermaid(plan, needs) if mermaid else graph.graph_text(plan, needs))


def show_status(words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Show the stages, the outputs and the last run of a recipe."""
    from dbrun.ui.history import status_text

    asked, scope = _read_scope(words, profiles, Selection())
    plan = plan_scope(scope)
    last = next((run for run in list_runs(scope.store) if run.name == scope.recipe.name), None)
    made = _stage_results(scope, plan)
    target = Path("outputs") / scope.recipe.name
    outputs = str(target), _outputs_state(target, plan, scope.delivering_stages)
    at_work = _live_progress(last) if last is not None and last.is_live else None
    if as_json:
        print_result(json.dumps({"format_version": 1, "recipe": str(asked.recipe), "name": scope.recipe.name,
                                 "stages": plan.as_json()["stages"],
                                 "outputs": {"folder": outputs[0], "state": outputs[1]},
                                 "last_run": {"id": last.id, "state": last.state, "at": at_work} if last else None},
                                indent=1))
    else:
        print_result(status_text(plan, made, last, outputs, at_work))


def _stage_results(scope: Scope, plan: Plan) -> Mapping[str, tuple[str, float]]:
    """For each stage with a result, when that was made and how long it took."""
    found = {}
    for stage in plan.stages:
        trace = scope.store.traces.read(stage.name, stage.key) if stage.status is Status.HIT and stage.key else None
        if trace is not None:
            found[stage.name] = trace.created, trace.seconds
    return found


def _outputs_state(target: Path, plan: Plan, delivering: Sequence[str]) -> str:
    """Whether the outputs are those of today's recipe. delivering: the stages whose files they are."""
    try:
        stages = json.loads((target / RECORD_FILE).read_bytes())["stages"]
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


def _live_progress(run: Run) -> str | None:
    """How far a live run is."""
    from dbrun.plan.diff_runs import read_events

    moved = [event for event in read_events(run) if event.get("event") in ("progress", "stage_started")]
    if not moved:
        return None
    last = moved[-1]
    done = f" {last['done']}/{last['total']} {last['unit']}" if last["event"] == "progress" else ""
    return f"{last.get('stage')}{done}"


def make_lock(asked: RecipeRequest, *, as_json: bool) -> None:
    """Write the lock of a recipe."""
    from dbrun.resolve.lock import check_unchanged_by_overrides, lock_contents, write_lock
    from dbrun.resolve.sources import pin_revision

    loaded, resolved, store = read_request(asked)
    if laid := asked.words[1:]:
        check_unchanged_by_overrides(loaded, resolved, read_request(RecipeRequest(asked.recipe))[1], laid)
    resolved = pin_revision(loaded, resolved, store)
    target, changed = write_lock(loaded, resolved)
    if as_json:
        print_result(json.dumps({"file": str(target), "changed": changed, **lock_contents(resolved)}, indent=1))
        return
    print_status("the lock is new" if changed else "the lock holds as it stands")
    print_result(display_path(target))

