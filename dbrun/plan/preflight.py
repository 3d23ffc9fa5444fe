"""What stops a run before anything expensive starts, and what can be done about it?"""

from __future__ import annotations

from dbrun.errors import DbrunError, StageFailed, WorkPending
from dbrun.plan.planner import Plan, Status
from dbrun.plan.reasons import MissingRequirement, NotSelected
from dbrun.store.store import Store


def preflight_error(plan: Plan, words: str, store: Store) -> DbrunError | None:
    """Why a run of this plan ends before its first stage; None where it does not.

    words: the recipe and overrides as typed.
    """
    if store.read_only and plan.has_pending:
        left = ", ".join(s.name for s in plan.stages if s.status is not Status.HIT)
        return StageFailed(f"the store {store.root} can only be read, and {left} would have to run",
                           fix="set DBRUN_STORE to a folder that can be written")
    for stage in plan.blocked_stages:
        if isinstance(stage.reason, NotSelected):
            return WorkPending(f"{stage.name}: {stage.reason}",
                               fix=f"run it first: dbrun stage {stage.name} {words}, or leave out --only and --from")
        lacking = stage.reason if isinstance(stage.reason, MissingRequirement) else None
        return StageFailed(f"{stage.name} cannot run: {lacking.what if lacking else stage.reason}",
                           fix=lacking.fix if lacking else None)
    return None
