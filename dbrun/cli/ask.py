"""What the verbs do that say how things stand with a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbrun.cli.run import read
from dbrun.cli.words import Asked, asked_or_at_hand, check_stage
from dbrun.plan.planner import EXPORT_STAGE, Plan, Scope, Status, plan_of, scope
from dbrun.plan.selection import Selection
from dbrun.recipe.text.spans import shown
from dbrun.safetensors_header import RECORD
from dbrun.store.runs import Run, runs
from dbrun.store.store import store_at_hand
from dbrun.ui.terminal import put, say


def _scope(words: Sequence[str], profiles: Sequence[str] | None, selection: Selection) -> tuple[Asked, Scope]:
    """The recipe that words name, or the one at hand, which is then said."""
    asked, why = asked_or_at_hand(words, profiles, store_at_hand())
    if why is not None:
        say(why)
    loaded, located, store = read(asked)
    return asked, scope(loaded.recipe, located, store, selection, None)


def show_explanation(stage: str, words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Take the key of a stage apart."""
    from dbrun.plan.explain import explain
    from dbrun.ui.explain import explanation

    check_stage(stage)
    _, within = _scope(words, profiles, Selection(until=stage))
    found = explain(within, stage)
    put(json.dumps(found.as_json(), indent=1) if as_json else explanation(found))


def show_graph(words: Sequence[str], profiles: Sequence[str] | None, *, mermaid: bool, as_json: bool) -> None:
    """Draw the stages."""
    from dbrun.ui import graph

    _, within = _scope(words, profiles, Selection())
    plan, needs = plan_of(within), within.chosen.needs
    if as_json:
        put(json.dumps({"format_version": 1, "stages": [
            {"name": one.name, "needs": list(needs[one.name]), "status": one.status.value} for one in plan.stages]},
            indent=1))
    else:
        put(graph.mermaid(plan, needs) if mermaid else graph.drawn(plan, needs))


def show_status(words: Sequence[str], profiles: Sequence[str] | None, *, as_json: bool) -> None:
    """Show the stages, the outputs and the last run of a recipe."""
    from dbrun.ui.history import standing

    asked, within = _scope(words, profiles, Selection())
    plan = plan_of(within)
    last = next((run for run in runs(within.store) if run.name == within.recipe.name), None)
    made = _made(within, plan)
    target = Path("outputs") / within.recipe.name
    outputs = str(target), _delivered(target, plan)
    at_work = _at_work(last) if last is not None and last.live else None
    if as_json:
        put(json.dumps({"format_version": 1, "recipe": str(asked.recipe), "name": within.recipe.name,
                        "stages": plan.as_json()["stages"], "outputs": {"folder": outputs[0], "state": outputs[1]},
                        "last_run": {"id": last.id, "state": last.state, "at": at_work} if last else None}, indent=1))
    else:
        put(standing(plan, made, last, outputs, at_work))


def _made(within: Scope, plan: Plan) -> Mapping[str, tuple[str, float]]:
    """For each stage with a result, when that was made and how long it took."""
    found = {}
    for stage in plan.stages:
        trace = within.store.traces.read(stage.name, stage.key) if stage.status is Status.HIT and stage.key else None
        if trace is not None:
            found[stage.name] = trace.created, trace.seconds
    return found


def _delivered(target: Path, plan: Plan) -> str:
    """Whether the outputs are those of today's recipe."""
    try:
        stages = json.loads((target / RECORD).read_bytes())["stages"]
        digest = stages[EXPORT_STAGE]["digest"]
    except FileNotFoundError:
        return "not there"
    except (OSError, ValueError, KeyError, TypeError):
        return "there, but not written by dbrun"
    export = next((one for one in plan.stages if one.name == EXPORT_STAGE), None)
    if export is None or export.status is not Status.HIT:
        return "of an earlier recipe"
    return "current" if digest == export.digest else "of an earlier recipe; dbrun run writes them again"


def _at_work(run: Run) -> str | None:
    """How far a live run is."""
    from dbrun.plan.diff_runs import events

    moved = [event for event in events(run) if event.get("event") in ("progress", "stage_started")]
    if not moved:
        return None
    last = moved[-1]
    done = f" {last['done']}/{last['total']} {last['unit']}" if last["event"] == "progress" else ""
    return f"{last.get('stage')}{done}"


def make_lock(asked: Asked, *, as_json: bool) -> None:
    """Write the lock of a recipe."""
    from dbrun.resolve.lock import check_as_written, locked, write_lock
    from dbrun.resolve.sources import pinned

    loaded, located, store = read(asked)
    if laid := asked.words[1:]:
        check_as_written(loaded, located, read(Asked(asked.recipe))[1], laid)
    located = pinned(loaded, located, store)
    target, changed = write_lock(loaded, located)
    if as_json:
        put(json.dumps({"file": str(target), "changed": changed, **locked(located)}, indent=1))
        return
    say("the lock is new" if changed else "the lock holds as it stands")
    put(shown(target))

