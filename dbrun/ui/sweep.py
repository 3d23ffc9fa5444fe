"""How the runs of a sweep look: their shared plan, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dbrun.errors import DbrunError
from dbrun.events import Note
from dbrun.plan.estimate import Estimate
from dbrun.plan.planner import Status
from dbrun.plan.sweep_plan import SharedWork
from dbrun.ui.plan import duration_text, note_text, status_word, total_text
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import format_duration, pluralize

SweptValues = Sequence[tuple[str, str]]


MAX_NAMED_RUNS = 3
"""Runs that a note names singly."""
PENDING = (Status.RUN, Status.RESUME)
"""What becomes of a stage that is work."""


def note_lines(notes: Mapping[Note, Sequence[int]], runs: Sequence[SweptValues]) -> list[str]:
    """What is to be known before the runs; of what is not so in all of them, in which."""
    return [note_text(note if len(members) == len(runs)
                      else replace(note, text=f"{note.text} ({_describe_runs(members, runs)})"))
            for note, members in notes.items()]


def combine_stops(stops: Sequence[tuple[DbrunError, Sequence[int]]], runs: Sequence[SweptValues]) -> DbrunError:
    """One error that says of each reason why runs would stop, in which; the last one's way out is its own."""
    lines: list[str] = []
    for error, members in stops:
        which = f"all {len(runs)} runs" if len(members) == len(runs) else _describe_runs(members, runs)
        lines.append(f"{error.message} ({which})")
        lines += [f"  → {error.fix}"] if error.fix and error is not stops[-1][0] else []
    return type(stops[0][0])("\n".join(lines), fix=stops[-1][0].fix)


def work_table(work: Sequence[SharedWork], runs: Sequence[SweptValues], known: Sequence[Estimate | None]) -> str:
    """Each piece of work once, with the runs that it is for, and what is known of what it and all of them take."""
    rows = [[one.plan.name, status_word(one.plan.status), duration_text(estimate), _shared_by_text(one.runs, runs),
             str(one.plan.reason)]
            for one, estimate in zip(work, known, strict=True)]
    if not any(known):
        rows = [[*row[:2], *row[3:]] for row in rows]
    todo = [one for one in work if one.plan.status in PENDING]
    alone = sum(len(one.runs) for one in todo)
    work_left = f"{pluralize(len(todo), 'stage')} to run" + (f" instead of {alone}" if alone > len(todo) else "")
    blocked = sum(one.plan.status is Status.BLOCKED for one in work)
    parts = [*([work_left] if todo else []), *([f"{pluralize(blocked, 'stage')} blocked"] if blocked else [])]
    last = f"{pluralize(len(runs), 'run')}: {'; '.join(parts) or 'nothing to do'}"
    return "\n".join([align_rows(rows), last, *([_work_total_text(work, runs, known)] if any(known) else [])])


def _work_total_text(work: Sequence[SharedWork], runs: Sequence[SweptValues], known: Sequence[Estimate | None]) -> str:
    """What all pieces take together; one of which nothing is known is told from others of its stage by its runs."""
    pieces = [(one, estimate) for one, estimate in zip(work, known, strict=True) if one.plan.status in PENDING]
    stages = {one.plan.name for one, estimate in pieces if estimate}
    return total_text([(one.plan.name, estimate) for one, estimate in pieces if estimate],
                      [f"{one.plan.name} ({_describe_runs(one.runs, runs)})" if one.plan.name in stages
                       else one.plan.name
                       for one, estimate in pieces if not estimate])


def _describe_runs(members: Sequence[int], runs: Sequence[SweptValues]) -> str:
    """Some of the runs, by the values that they alone have in common, else by those of each."""
    shared = _shared_values(members, runs)
    if shared and sum(all(pair in run for pair in shared) for run in runs) == len(members):
        return _values_text(shared)
    more = f"; {len(members) - MAX_NAMED_RUNS} more" if len(members) > MAX_NAMED_RUNS else ""
    return "; ".join(_values_text(runs[number]) for number in members[:MAX_NAMED_RUNS]) + more


def _shared_by_text(members: Sequence[int], runs: Sequence[SweptValues]) -> str:
    """The values that the members have in common, apart from those that all runs have."""
    if len(members) == len(runs) > 1:
        return f"once for {len(runs)} runs"
    words = _values_text(_shared_values(members, runs))
    return words if len(members) == 1 else f"{words} (once for {len(members)} runs)".strip()


def _shared_values(members: Sequence[int], runs: Sequence[SweptValues]) -> SweptValues:
    return [pair for pair in runs[members[0]] if all(pair in runs[number] for number in members)]


def _values_text(values: SweptValues) -> str:
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values)


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
                     str(result["cached"]), format_duration(seconds) if isinstance(seconds, float) else "-",
                     str(result["outputs"] or "-")])
    return align_rows(rows, head=head, short=True)


def _values(result: Mapping[str, object]) -> Mapping[str, str]:
    values = result["values"]
    return values if isinstance(values, dict) else {}
