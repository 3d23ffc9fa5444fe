"""The work of the verb `plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from dbrun.cli.run import read_request
from dbrun.plan.planner import Plan, Scope, make_scope, plan_scope
from dbrun.recipe.load import LoadedRecipe
from dbrun.ui.terminal import paint, print_result, print_status

if TYPE_CHECKING:
    from dbrun.cli.words import RecipeRequest
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.selection import Selection
    from dbrun.resolve.sources import ResolvedSources


def show_plan(asked: RecipeRequest, selection: Selection, *, as_json: bool, locked: bool = False,
              exit_code: bool = False) -> int:
    """Show what would be done. The exit code: 3 if one is asked for and any of it is still to do, else 0.

    locked: tell, and go by, whether the recipe points at what its lock says.
    """
    loaded, resolved, store = read_request(asked)
    drifted = _drift(loaded, resolved) if locked else None
    scope = make_scope(loaded.recipe, resolved, store, selection, None)
    plan = plan_scope(scope)
    _print_plan(loaded, scope, plan, drifted, as_json=as_json)
    if plan.blocked_stages and not as_json:
        _print_stop(asked, scope, plan)
    return 3 if exit_code and (plan.has_pending if drifted is None else drifted) else 0


def _print_plan(loaded: LoadedRecipe, scope: Scope, plan: Plan, drifted: list[str] | None, *, as_json: bool) -> None:
    from dbrun.recipe.checks.exports import export_options
    from dbrun.ui.plan import exports_text, note_text, stage_table

    known = _estimates(scope, plan)
    forms = export_options(scope.recipe, scope.resolved.sources.base.folder)
    if as_json:
        estimated = {name: asdict(estimate) for name, estimate in known.items()}
        notes = [{"stage": note.stage, "text": note.text, "level": note.level} for note in scope.resolved.notes]
        beside = {"estimates": estimated, "drift": drifted, "formats": asdict(forms), "notes": notes}
        print_result(json.dumps({**plan.as_json(), **beside}, indent=1))
        return
    for note in scope.resolved.notes:
        print_status(note_text(note))
    written = any(scope.stages[name].writes_formats for name in scope.selected_stages.needs)
    print_result("\n".join([stage_table(plan, known), *([exports_text(forms)] if written else [])]))
    if drifted:
        from dbrun.resolve.lock import drift_headline

        print_status("\n  ".join([f"{paint('drift:', 'yellow', sys.stderr)} {drift_headline(loaded)}", *drifted]))


def _estimates(scope: Scope, plan: Plan) -> Mapping[str, Estimate]:
    """What is known of the time, memory and disk of the stages that are to run."""
    if not plan.has_pending:
        return {}
    from dbrun.plan.estimate import estimate_stages

    return estimate_stages(scope, plan)


def _print_stop(asked: RecipeRequest, scope: Scope, plan: Plan) -> None:
    import shlex

    from dbrun.plan.preflight import preflight_error
    from dbrun.ui.plan import stop_text

    if (stop := preflight_error(plan, shlex.join(asked.words), scope.store)) is not None:
        print_status(stop_text(stop))


def _drift(loaded: LoadedRecipe, resolved: ResolvedSources) -> list[str]:
    from dbrun.resolve.lock import drift

    return drift(loaded, resolved)
