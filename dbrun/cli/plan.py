"""The work of the verb `plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from dbrun.cli.run import read_request
from dbrun.plan.hub_check import ask_hub
from dbrun.plan.machine_advice import machine_advice
from dbrun.plan.planner import Plan, Scope, Status, make_scope, plan_scope
from dbrun.recipe.load import LoadedRecipe
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import paint, print_result, print_status

if TYPE_CHECKING:
    from dbrun.api.request import RecipeRequest
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.selection import Selection
    from dbrun.resolve.sources import ResolvedSources
    from dbrun.stages.support.memory import CountedMemory

Form = Literal["text", "json", "markdown"]
"""How a plan is printed."""


def show_plan(request: RecipeRequest, selection: Selection, *, form: Form = "text", locked: bool = False,
              exit_code: bool = False) -> int:
    """Print the plan; return the exit code: 3 if exit_code is set and there is work or drift, else 0.

    locked: compare the recipe with its lock, and return 3 for drift instead of pending work.
    """
    loaded, resolved, store = read_request(request)
    drifted = _drift(loaded, resolved) if locked else None
    scope = make_scope(loaded.recipe, resolved, store, selection, None)
    plan = plan_scope(scope)
    scope, plan, download = _with_answer_of_hub(scope, plan)
    if form == "markdown":
        _print_markdown(request, loaded, scope, plan, drifted, download)
    else:
        _print_plan(request, loaded, scope, plan, drifted, download, as_json=form == "json")
    if plan.blocked_stages and form != "json":
        _print_stop(request, scope, plan)
    if not exit_code:
        return 0
    is_open = plan.has_pending if drifted is None else bool(drifted)
    return 3 if is_open else 0


def _with_answer_of_hub(scope: Scope, plan: Plan) -> tuple[Scope, Plan, str | None]:
    """The scope and plan with what the Hub says of a base that is not here, and its text on the download."""
    asked = ask_hub(scope, plan)
    if asked is scope:
        return scope, plan, None
    new = [note.text for note in asked.resolved.notes
           if note not in scope.resolved.notes and note.level != "warning"]
    return asked, plan_scope(asked), new[-1] if new else None


def show_memory(request: RecipeRequest, selection: Selection, device: str | None, *, as_json: bool) -> None:
    """Print the counted memory of each stage on a device. device: such as `cuda:24GB`; None for the recipe's, here."""
    from dbrun.plan import memory
    from dbrun.resolve.base import published_base, require_base_folder
    from dbrun.stages.support.memory_advice import stage_advice
    from dbrun.ui.memory import memory_table
    from dbrun.ui.waiting import show_elapsed

    target = memory.parse_device(device) if device else None
    loaded, resolved, store = read_request(request)
    recipe = memory.recipe_for(loaded.recipe, target) if target else loaded.recipe
    if published_base(resolved.sources.base) is None:
        require_base_folder(resolved.sources.base, request.words)
    scope = make_scope(recipe, resolved, store, selection, None)
    with show_elapsed("counting memory"):
        counts = memory.count_stages(scope)
    if target is None or target.size is None:
        # now that torch is imported, a GPU of this machine can be asked
        target = memory.this_machine(scope.numerics.device)
    measured = memory.measured_before(scope, plan_scope(scope))
    elsewhere = frozenset(name for name in counts
                          if target.name != "cpu" and not scope.stages[name].device_dependent)
    advice = {name: stage_advice(scope.stages[name], scope.recipe, target.name) for name in counts}
    if not as_json:
        print_result(memory_table(counts, measured, elsewhere, advice, target))
        return
    stages = []
    for name, counted in counts.items():
        fits = None if name in elsewhere else target.has_room(counted)
        stages.append({"name": name, "counted": {**counted.to_json(), "total": counted.total}, "fits": fits,
                       "measured": measured.get(name), "advice": advice[name]})
    print_result(json.dumps({"format_version": 1, "device": target.name, "bytes": target.size, "stages": stages},
                            indent=1))


def _print_plan(request: RecipeRequest, loaded: LoadedRecipe, scope: Scope, plan: Plan, drifted: list[str] | None,
                download: str | None, *, as_json: bool) -> None:
    """Print the plan. drifted: the differences from the lock, None without a comparison; download: the Hub's answer."""
    from dbrun.plan.forecast import forecast
    from dbrun.recipe.checks.exports import export_options
    from dbrun.ui.plan import exports_text, forecast_lines, note_text, stage_table

    estimates, counts = _estimates(scope, plan), _known_counts(scope, plan)
    notes = (*scope.resolved.notes, *machine_advice(scope, plan, estimates))
    forms = export_options(scope.recipe, scope.resolved.sources.base.folder)
    if as_json:
        estimates_json = {name: asdict(estimate) for name, estimate in estimates.items()}
        counts_json = {name: counted.to_json() for name, counted in counts.items()}
        note_documents = [{"stage": note.stage, "text": note.text, "level": note.level} for note in notes]
        print_result(json.dumps({**plan.to_json(), "estimates": estimates_json, "memory": counts_json, "drift": drifted,
                                 "formats": asdict(forms), "notes": note_documents}, indent=1))
        return
    for note in notes:
        # the download is told in the last lines
        if note.text != download:
            print_status(note_text(note))
    blocks = [stage_table(plan, estimates)]
    if counts:
        from dbrun.ui.memory import counted_text

        blocks.append(counted_text(counts))
    # With `--until train` nothing is exported, and the formats would only mislead.
    if any(scope.stages[name].writes_formats for name in scope.selected_stages.needs):
        blocks.append(exports_text(forms))
    for line in forecast_lines(plan, estimates, forecast(scope, plan, counts, download), request.words):
        blocks.append(align_rows([[line]]))
    print_result("\n".join(blocks))
    if drifted:
        from dbrun.resolve.lock import drift_headline

        headline = f"{paint('drift:', 'yellow', sys.stderr)} {drift_headline(loaded)}"
        print_status("\n  ".join([headline, *drifted]))


def _print_markdown(request: RecipeRequest, loaded: LoadedRecipe, scope: Scope, plan: Plan,
                    drifted: list[str] | None, download: str | None) -> None:
    """Print the plan for the summary of a CI job. Arguments as those of `_print_plan`."""
    from dbrun.plan.forecast import forecast
    from dbrun.ui.markdown import plan_markdown
    from dbrun.ui.plan import forecast_lines

    estimates, counts = _estimates(scope, plan), _known_counts(scope, plan)
    notes = (*scope.resolved.notes, *machine_advice(scope, plan, estimates))
    lines = forecast_lines(plan, estimates, forecast(scope, plan, counts, download), request.words)
    warnings = [f"{note.stage}: {note.text}" for note in notes if note.level == "warning"]
    print_result(plan_markdown(loaded.recipe.name, plan, estimates, lines, warnings, drifted or []))


def _estimates(scope: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """Pending stage → its estimated time, memory and disk, as far as earlier runs tell."""
    # Without pending work there is nothing to estimate, and a no-op plan stays fast.
    if not plan.has_pending:
        return {}
    from dbrun.plan.estimate import estimate_stages

    return estimate_stages(scope, plan)


def _known_counts(scope: Scope, plan: Plan) -> Mapping[str, CountedMemory]:
    """Pending stage → its memory, as far as an earlier `--memory` counted it for the same inputs."""
    if not plan.has_pending:
        return {}
    from dbrun.plan.memory import known_counts

    pending = {stage.name for stage in plan.stages if stage.status is not Status.HIT}
    return {name: counted for name, counted in known_counts(scope).items() if name in pending}


def _print_stop(request: RecipeRequest, scope: Scope, plan: Plan) -> None:
    """Print why a run of this plan would stop before its first stage, if it would."""
    import shlex

    from dbrun.plan.preflight import preflight_error
    from dbrun.ui.plan import stop_text

    command = shlex.join(request.words)
    stop = preflight_error(plan, command, scope.store)
    if stop is not None:
        print_status(stop_text(stop))


def _drift(loaded: LoadedRecipe, resolved: ResolvedSources) -> list[str]:
    from dbrun.resolve.lock import drift

    return drift(loaded, resolved)
