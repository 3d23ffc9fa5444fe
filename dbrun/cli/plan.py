"""What `plan` does once its words are understood."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from dbrun.cli.run import read
from dbrun.plan.planner import EXPORT_STAGE, Plan, Scope, plan_of, scope
from dbrun.recipe.load import LoadedRecipe
from dbrun.ui.terminal import paint, put, say

if TYPE_CHECKING:
    from dbrun.cli.words import Asked
    from dbrun.plan.selection import Selection
    from dbrun.resolve.sources import Located


def show_plan(asked: Asked, selection: Selection, *, as_json: bool, locked: bool = False,
              exit_code: bool = False) -> int:
    """Show what would be done. The exit code: 3 if one is asked for and any of it is still to do, else 0.

    locked: tell, and go by, whether the recipe points at what its lock says.
    """
    loaded, located, store = read(asked)
    drifted = _drift(loaded, located) if locked else None
    within = scope(loaded.recipe, located, store, selection, None)
    plan = plan_of(within)
    _tell(loaded, within, plan, drifted, as_json=as_json)
    if plan.blocked and not as_json:
        _tell_stop(asked, within, plan)
    return 3 if exit_code and (plan.pending if drifted is None else drifted) else 0


def _tell(loaded: LoadedRecipe, within: Scope, plan: Plan, drifted: list[str] | None, *, as_json: bool) -> None:
    from dbrun.plan.estimate import estimates
    from dbrun.recipe.checks.exports import outlook
    from dbrun.ui.plan import exports, remark, table

    known = estimates(within, plan)
    forms = outlook(within.recipe, within.located.sources.base.folder)
    if as_json:
        estimated = {name: asdict(estimate) for name, estimate in known.items()}
        notes = [{"stage": note.stage, "text": note.text, "level": note.level} for note in within.located.notes]
        beside = {"estimates": estimated, "drift": drifted, "formats": asdict(forms), "notes": notes}
        put(json.dumps({**plan.as_json(), **beside}, indent=1))
        return
    for note in within.located.notes:
        say(remark(note))
    put("\n".join([table(plan, known), *([exports(forms)] if EXPORT_STAGE in within.chosen.needs else [])]))
    if drifted:
        from dbrun.resolve.lock import headline

        say("\n  ".join([f"{paint('drift:', 'yellow', sys.stderr)} {headline(loaded)}", *drifted]))


def _tell_stop(asked: Asked, within: Scope, plan: Plan) -> None:
    import shlex

    from dbrun.plan.preflight import what_stops
    from dbrun.ui.plan import stopped

    if (stop := what_stops(plan, shlex.join(asked.words), within.store)) is not None:
        say(stopped(stop))


def _drift(loaded: LoadedRecipe, located: Located) -> list[str]:
    from dbrun.resolve.lock import drift

    return drift(loaded, located)
