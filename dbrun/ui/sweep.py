"""How the runs of a sweep look: their shared plan, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.plan.grid import Together
from dbrun.plan.planner import Status
from dbrun.ui.plan import status_word
from dbrun.ui.table import aligned
from dbrun.ui.terminal import clock, counted

Values = Sequence[tuple[str, str]]


def plan_table(work: Sequence[Together], runs: Sequence[Values]) -> str:
    """Each piece of work once, with the runs that it is for."""
    rows = [(one.plan.name, status_word(one.plan.status), _whose(one.runs, runs), str(one.plan.reason))
            for one in work]
    todo = [one for one in work if one.plan.status is not Status.HIT]
    alone = sum(len(one.runs) for one in todo)
    work_left = f"{counted(len(todo), 'stage')} to run" + (f" instead of {alone}" if alone > len(todo) else "")
    last = f"{counted(len(runs), 'run')}: {work_left if todo else 'nothing to do'}"
    return f"{aligned(rows)}\n{last}"


def _whose(members: Sequence[int], runs: Sequence[Values]) -> str:
    """The values that the members have in common, apart from those that all runs have."""
    if len(members) == len(runs) > 1:
        return f"once for {len(runs)} runs"
    shared = [pair for pair in runs[members[0]] if all(pair in runs[i] for i in members)]
    words = " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in shared)
    return words if len(members) == 1 else f"{words} (once for {len(members)} runs)".strip()


def results_table(results: Sequence[Mapping[str, object]]) -> str:
    """A row for each run: its values, its loss at the end, what it took, and where its exports are."""
    keys = list(dict.fromkeys(key for result in results for key in _values(result)))
    head = [*(key.rpartition(".")[2] for key in keys), "loss", "ran", "cached", "time", "exports"]
    rows = []
    for result in results:
        values = [_values(result).get(key, "") for key in keys]
        if result["failed"]:
            rows.append([*values, "-", "-", "-", "-", f"failed: {result['failed']}"])
            continue
        loss, seconds = result["loss"], result["seconds"]
        rows.append([*values, f"{loss:.4g}" if isinstance(loss, float) else "-", str(result["ran"]),
                     str(result["cached"]), clock(seconds) if isinstance(seconds, float) else "-",
                     str(result["outputs"] or "-")])
    return aligned(rows, head=head, short=True)


def _values(result: Mapping[str, object]) -> Mapping[str, str]:
    values = result["values"]
    return values if isinstance(values, dict) else {}
