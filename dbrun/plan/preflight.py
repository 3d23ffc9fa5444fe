"""Check of a plan before a run: the error that would stop it, found before anything expensive starts."""

from __future__ import annotations

from dbrun.errors import DbrunError, StageFailed, WorkPending
from dbrun.plan.planner import Plan, Status
from dbrun.plan.reasons import MissingRequirement, NotSelected
from dbrun.store.store import Store


def preflight_error(plan: Plan, words: str, store: Store) -> DbrunError | None:
    """Error with which a run of this plan ends before its first stage; None if it can start.

    words: the recipe and overrides as typed, for the command in the hint.
    """
    # a read-only store is fine as long as everything is cached
    if store.read_only and plan.has_pending:
        pending = ", ".join(s.name for s in plan.stages if s.status is not Status.HIT)
        return StageFailed(f"the store {store.root} is read-only, and {pending} would have to run",
                           fix="set DBRUN_STORE to a folder that can be written")
    for stage in plan.blocked_stages:
        if isinstance(stage.reason, NotSelected):
            return WorkPending(f"{stage.name}: {stage.reason}",
                               fix=f"run it first: dbrun stage {stage.name} {words}, or leave out --only and --from")
        if isinstance(stage.reason, MissingRequirement):
            return StageFailed(f"{stage.name} cannot run: {stage.reason.what}", fix=stage.reason.fix)
        return StageFailed(f"{stage.name} cannot run: {stage.reason}")
    return None
