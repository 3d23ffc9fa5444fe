"""Texts about a sweep: the shared plan of its runs, and the table of their results."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from dbrun.errors import DbrunError, combine_errors
from dbrun.events import Note
from dbrun.expectations import ScoreSummary, score_text, summaries_from_json
from dbrun.plan.estimate import Estimate
from dbrun.plan.planner import Status
from dbrun.plan.sweep_plan import SharedWork
from dbrun.ui.plan import duration_text, note_text, status_word, total_text
from dbrun.ui.table import align_rows
from dbrun.ui.terminal import format_duration, pluralize

MAIN_SCORE = "subject"
"""The score that a sweep is ranked by where its runs have it."""
SweptValues = Sequence[tuple[str, str]]
"""The swept keys of one run, each with its value. Runs are named by their index; `members` are such indices."""


MAX_NAMED_RUNS = 3
"""Runs that a note or a command names one by one; of more, only their number or the beginning of their names."""
PENDING = (Status.RUN, Status.RESUME)
"""The statuses of a stage that has work to do."""


def note_lines(notes: Mapping[Note, Sequence[int]], runs: Sequence[SweptValues]) -> list[str]:
    """The notes about a sweep; a note that is not about all runs says which. notes: note → its runs."""
    lines = []
    for note, members in notes.items():
        if len(members) < len(runs):
            note = replace(note, text=f"{note.text} ({_describe_runs(members, runs)})")
        lines.append(note_text(note))
    return lines


def combine_stops(stops: Sequence[tuple[DbrunError, Sequence[int]]], runs: Sequence[SweptValues]) -> DbrunError:
    """One error for all reasons why runs would stop. stops: each error with the runs that it stops."""
    parts: list[tuple[DbrunError, str]] = []
    for error, members in stops:
        which = f"all {len(runs)} runs" if len(members) == len(runs) else _describe_runs(members, runs)
        parts.append((error, which))
    return combine_errors(parts)


def work_table(work: Sequence[SharedWork], runs: Sequence[SweptValues], known: Sequence[Estimate | None]) -> str:
    """A row for each piece of work that runs share, then the totals. known: the estimate of each piece."""
    rows = []
    for one, estimate in zip(work, known, strict=True):
        row = [one.plan.name, status_word(one.plan.status)]
        if any(known):
            row.append(duration_text(estimate))
        rows.append([*row, _shared_by_text(one.runs, runs), str(one.plan.reason)])
    lines = [align_rows(rows), f"{pluralize(len(runs), 'run')}: {_work_left_text(work)}"]
    if any(known):
        lines.append(_work_total_text(work, runs, known))
    return "\n".join(lines)


def _work_left_text(work: Sequence[SharedWork]) -> str:
    """How many stages are to run, how many there would be without sharing, and how many are blocked."""
    pending = [one for one in work if one.plan.status in PENDING]
    unshared = sum(len(one.runs) for one in pending)
    blocked = sum(one.plan.status is Status.BLOCKED for one in work)
    parts = []
    if pending:
        saved = f" instead of {unshared}" if unshared > len(pending) else ""
        parts.append(f"{pluralize(len(pending), 'stage')} to run{saved}")
    if blocked:
        parts.append(f"{pluralize(blocked, 'stage')} blocked")
    return "; ".join(parts) or "nothing to do"


def _work_total_text(work: Sequence[SharedWork], runs: Sequence[SweptValues], known: Sequence[Estimate | None]) -> str:
    """The estimated total of all pending work. known: the estimate of each piece."""
    pieces = [(one, estimate) for one, estimate in zip(work, known, strict=True) if one.plan.status in PENDING]
    estimated = [(one.plan.name, estimate) for one, estimate in pieces if estimate]
    estimated_stages = {name for name, _ in estimated}
    unknown = []
    for one, estimate in pieces:
        if estimate:
            continue
        name = one.plan.name
        # Other pieces of this stage have estimates: say which one has none.
        if name in estimated_stages:
            name += f" ({_describe_runs(one.runs, runs)})"
        unknown.append(name)
    return align_rows([[total_text(estimated, unknown)]])


def _describe_runs(members: Sequence[int], runs: Sequence[SweptValues]) -> str:
    """The values that these runs, and only these, have in common; if there are none, the values of each run."""
    shared = _shared_values(members, runs)
    with_shared = [run for run in runs if set(shared) <= set(run)]
    if shared and len(with_shared) == len(members):
        return values_text(shared)
    named = "; ".join(values_text(runs[number]) for number in members[:MAX_NAMED_RUNS])
    if len(members) > MAX_NAMED_RUNS:
        named += f"; {len(members) - MAX_NAMED_RUNS} more"
    return named


def _shared_by_text(members: Sequence[int], runs: Sequence[SweptValues]) -> str:
    """The values that these runs have in common, and that the work is done once for all of them."""
    if len(members) == len(runs) > 1:
        return f"once for {len(runs)} runs"
    values = values_text(_shared_values(members, runs))
    return values if len(members) == 1 else f"{values} (once for {len(members)} runs)".strip()


def _shared_values(members: Sequence[int], runs: Sequence[SweptValues]) -> SweptValues:
    """The keys and values that all these runs have in common, in the order of the sweep."""
    in_all = set(runs[members[0]]).intersection(*(runs[number] for number in members))
    return [pair for pair in runs[members[0]] if pair in in_all]


def values_text(values: SweptValues) -> str:
    """The values of a run as `rank=4 learning_rate=1e-3`."""
    return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values)


def report_command(names: Sequence[str]) -> str:
    """The command that lays the runs of a sweep side by side; of many runs, by the beginning of their names."""
    words = list(names)
    if len(words) > MAX_NAMED_RUNS:
        # what the first and the last by the alphabet begin with, all others begin with, too
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(words), max(words), strict=False))
        beginning = "".join(letter for letter, _ in pairs)
        words = [f"{beginning}*"]
    return shlex.join(["dbrun", "report", *words])


def results_table(results: Sequence[Mapping[str, object]]) -> str:
    """A row for each run: its values, its last loss, stages run and cached, time, and the folder of its exports.

    Runs with scores are ranked by one of them, the best first; runs that cannot be told apart have the same rank.
    """
    seen: dict[str, None] = {}
    for result in results:
        seen.update(dict.fromkeys(_values(result)))
    keys = list(seen)
    scores = [summaries_from_json(result.get("scores")) for result in results]
    ranks = rank_runs(scores)
    # The last part of a key is enough to tell columns apart in almost any sweep, and keeps the table narrow.
    head = [*(key.rpartition(".")[2] for key in keys), "loss", "ran", "cached", "time", "exports"]
    name = ranking_score(scores)
    if name is not None:
        head = ["rank", *head[:-1], name, "exports"]
    rows = []
    for number, result in enumerate(results):
        row = [*(_values(result).get(key, "") for key in keys), *_result_cells(result)]
        if name is not None:
            value = scores[number].get(name)
            row = [ranks[number], *row[:-1], "-" if value is None else score_text(value.mean, value.spread), row[-1]]
        rows.append(row)
    if name is not None:
        # a run without a score comes last
        rows.sort(key=_rank_order)
    table = align_rows(rows, head=head, short=True)
    if any(rank.endswith("=") for rank in ranks):
        table += f"\n= no further apart in {name} than the spreads over seeds reach: a tie"
    return table


def _rank_order(row: Sequence[str]) -> float:
    """The number of a row's rank, its first cell; infinity without one."""
    return float(row[0].rstrip("=")) if row[0] else math.inf


def _result_cells(result: Mapping[str, object]) -> list[str]:
    """Loss, stages run and cached, time, and exports or the failure of a run."""
    if result["failed"]:
        return ["-", "-", "-", "-", f"failed: {result['failed']}"]
    loss, seconds = result["loss"], result["seconds"]
    loss_text = f"{loss:.4g}" if isinstance(loss, float) else "-"
    duration = format_duration(seconds) if isinstance(seconds, float) else "-"
    return [loss_text, str(result["ran"]), str(result["cached"]), duration, str(result["outputs"] or "-")]


def ranking_score(scores: Sequence[Mapping[str, ScoreSummary]]) -> str | None:
    """The score that runs are ranked by: subject fidelity, else the first that a run has; None without scores."""
    names: dict[str, None] = {}
    for of_run in scores:
        names.update(dict.fromkeys(of_run))
    if MAIN_SCORE in names:
        return MAIN_SCORE
    return next(iter(names), None)


def rank_runs(scores: Sequence[Mapping[str, ScoreSummary]]) -> list[str]:
    """The rank of each run, `1=` where it ties with another of this rank, empty for a run without the score.

    A rank is 1 and the number of runs that are better by more than the spreads over seeds reach.
    """
    name = ranking_score(scores)
    values = [of_run.get(name) if name is not None else None for of_run in scores]
    numbers: list[int | None] = []
    for own in values:
        if own is None:
            numbers.append(None)
            continue
        sign = 1.0 if own.higher_is_better else -1.0
        better = [other for other in values
                  if other is not None and sign * (other.mean - own.mean) > 0 and not own.ties_with(other)]
        numbers.append(1 + len(better))
    texts: list[str] = []
    for number in numbers:
        if number is None:
            texts.append("")
        else:
            texts.append(f"{number}=" if numbers.count(number) > 1 else str(number))
    return texts


def _values(result: Mapping[str, object]) -> Mapping[str, str]:
    values = result["values"]
    return values if isinstance(values, dict) else {}
