"""The work of `--sweep`: each combination of values is a run, all planned together, run one after another."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.api.request import RecipeRequest
from dbrun.api.sweep_axes import parse_axes, run_name
from dbrun.cli.run import read_request, run_recipe
from dbrun.errors import DbrunError, ExpectationMissed, Interrupted, StageFailed, UsageError
from dbrun.events import Note, SweepFinished
from dbrun.plan.planner import Plan, Scope, make_scope, plan_scope
from dbrun.plan.sweep_plan import SharedWork, shared_work
from dbrun.recipe.text.spans import InvalidRecipe, Problem
from dbrun.ui.terminal import print_result, print_status

if TYPE_CHECKING:
    from dbrun.api.results import Run
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.selection import Selection

MAX_RUNS = 256
"""Runs of a sweep at most; more is most likely a mistake in the values."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    recipe: the recipe's own name; values: each swept key with its value as text; request: the recipe with these values;
    scope_and_plan: its plan.
    """

    name: str
    recipe: str
    values: tuple[tuple[str, str], ...]
    request: RecipeRequest
    scope_and_plan: tuple[Scope, Plan]


def plan_runs(request: RecipeRequest, sweeps: Sequence[str], selection: Selection, *,
              decode: bool = False) -> list[SweepRun]:
    """The runs of a sweep, each planned. Raises all that is wrong with any of them, before one begins.

    sweeps: words of the form `key=value,value`, one for each axis; decode: decode every picture completely.
    """
    combinations = list(product(*parse_axes(sweeps)))
    if len(combinations) > MAX_RUNS:
        raise UsageError(f"found {len(combinations)} combinations, allowed: at most {MAX_RUNS}",
                         fix="sweep fewer values")
    runs: list[SweepRun] = []
    problems: list[Problem] = []
    for values in combinations:
        try:
            runs.append(_plan_run(request, values, selection, decode))
        except InvalidRecipe as error:
            problems += [_widen_problem(problem, sweeps) for problem in error.problems]
    # InvalidRecipe drops repeated problems: a mistake in the recipe itself comes once for each combination.
    if problems:
        raise InvalidRecipe(problems)
    if len({run.name for run in runs}) < len(runs):
        raise UsageError("two runs of the sweep have the same name", fix="sweep `name` alone, or leave it out")
    return runs


def _widen_problem(problem: Problem, sweeps: Sequence[str]) -> Problem:
    """A problem with a swept key itself, moved to the whole `--sweep` word: it is the same for each value."""
    span = problem.span
    # A problem in a file, and one with a value, stays where it is.
    if span is None or span.file is not None:
        return problem
    key = span.text.partition("=")[0]
    sweep = next((word for word in sweeps if word.partition("=")[0] == key), None)
    if sweep is None or span.column + span.length - 1 > len(key):
        return problem
    return replace(problem, span=replace(span, text=sweep))


def _plan_run(request: RecipeRequest, values: tuple[tuple[str, str], ...], selection: Selection,
              decode: bool) -> SweepRun:
    own_request = replace(request, overrides=(*request.overrides, *map("=".join, values)))
    # Loaded twice: the name, which is an override as well, depends on the recipe's own name.
    first, _ = own_request.load_with_problems()
    name = run_name(first.recipe.name, values)
    own_request = replace(own_request, overrides=(*own_request.overrides, f"name={name}"))
    loaded, resolved, store = read_request(own_request, decode=decode)
    scope = make_scope(loaded.recipe, resolved, store, selection, None)
    return SweepRun(name, first.recipe.name, values, own_request, (scope, plan_scope(scope)))


def show_sweep(runs: Sequence[SweepRun], *, as_json: bool) -> bool:
    """Print the runs as one plan, shared stages and notes once; return whether there is work to do."""
    from dbrun.plan.estimate import estimate_sweep
    from dbrun.ui.plan import stop_text
    from dbrun.ui.sweep import note_lines, work_table

    planned = [run.scope_and_plan for run in runs]
    values = [run.values for run in runs]
    work, notes = shared_work(planned), _collect_notes(runs)
    estimates = estimate_sweep(planned, work)
    if as_json:
        print_result(json.dumps(_as_json(runs, work, estimates, notes), indent=1))
    else:
        for line in note_lines(notes, values):
            print_status(line)
        print_result(work_table(work, values, estimates))
        stop = _combined_stop(runs)
        if stop is not None:
            print_status(stop_text(stop))
    return any(run.scope_and_plan[1].has_pending for run in runs)


def _combined_stop(runs: Sequence[SweepRun]) -> DbrunError | None:
    """One error for all reasons why runs would stop before their first stage; None if all can begin."""
    from dbrun.plan.preflight import preflight_error
    from dbrun.ui.sweep import combine_stops

    # By message: runs that stop for the same reason share one line.
    stops: dict[str, tuple[DbrunError, list[int]]] = {}
    for number, run in enumerate(runs):
        scope, plan = run.scope_and_plan
        command = shlex.join(run.request.words)
        stop = preflight_error(plan, command, scope.store)
        if stop is not None:
            _, members = stops.setdefault(stop.message, (stop, []))
            members.append(number)
    if not stops:
        return None
    return combine_stops(list(stops.values()), [run.values for run in runs])


def refuse_blocked(runs: Sequence[SweepRun], *, as_json: bool) -> None:
    """Raise DbrunError if any of the runs would stop before its first stage."""
    from dbrun.events import RunFailed

    stop = _combined_stop(runs)
    if stop is not None:
        if as_json:
            print_result(json.dumps(RunFailed.by(stop).to_json()))
        raise stop


def _collect_notes(runs: Sequence[SweepRun]) -> dict[Note, list[int]]:
    """Each note about the runs → the indices of the runs that it is about."""
    members_of: dict[Note, list[int]] = {}
    for number, run in enumerate(runs):
        for note in dict.fromkeys(run.scope_and_plan[0].resolved.notes):
            members_of.setdefault(note, []).append(number)
    return members_of


def _as_json(runs: Sequence[SweepRun], work: Sequence[SharedWork], estimates: Sequence[Estimate | None],
             notes: Mapping[Note, Sequence[int]]) -> dict[str, object]:
    def names(numbers: Sequence[int]) -> list[str]:
        return [runs[number].name for number in numbers]

    return {
        "format_version": 1,
        "runs": [{"name": run.name, "values": dict(run.values), **run.scope_and_plan[1].to_json()} for run in runs],
        "stages": [{"name": one.plan.name, "status": one.plan.status.value, "runs": names(one.runs)} for one in work],
        "estimates": [{"stage": one.plan.name, "runs": names(one.runs), **asdict(estimate)}
                      for one, estimate in zip(work, estimates, strict=True) if estimate],
        "notes": [{"stage": note.stage, "text": note.text, "level": note.level, "runs": names(numbers)}
                  for note, numbers in notes.items()]}


def run_sweep(runs: Sequence[SweepRun], selection: Selection, *, as_json: bool,
              outputs: Path = Path("outputs")) -> None:
    """Run all runs and print their results; a failed run does not stop the others.

    outputs: the folder for delivered folders. Raises StageFailed at the end if a run failed,
    ExpectationMissed if a score is not what its recipe expects, Interrupted at once.
    """
    from dbrun.cli.sweep_sheet import write_sweep_sheet
    from dbrun.ui.sweep import report_command, results_table, values_text
    from dbrun.workers.env import has_launcher

    if has_launcher(os.environ):
        raise UsageError("a launcher's processes share one run, and a sweep is several",
                         fix="leave the launcher out; `launch.processes=N` shares each run of the sweep")
    results: list[dict[str, object]] = []
    exports: dict[str, Path] = {}
    below: list[str] = []
    for run in runs:
        if not as_json:
            print_status("")
        outcome, failure = _run_one(run, selection, as_json, outputs)
        result: dict[str, object] = {"name": run.name, "values": dict(run.values), "failed": failure}
        if outcome is not None:
            result.update(_outcome_json(outcome))
            if outcome.outputs is not None:
                exports[values_text(run.values)] = outcome.outputs
            if outcome.is_below_expectation:
                below.append(run.name)
        results.append(result)
    if as_json:
        print_result(json.dumps(SweepFinished(tuple(results)).to_json()))
    else:
        print_status("")
        print_result(results_table(results))
        done = [str(result["name"]) for result in results if not result["failed"]]
        if len(done) > 1:
            print_status(f"side by side: {report_command(done)}")
        write_sweep_sheet(exports, outputs / f"{runs[0].recipe}-sweep.png")
    failed = [str(result["name"]) for result in results if result["failed"]]
    if failed:
        raise StageFailed(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}",
                          fix="run the same command again: it continues with what is missing")
    if below:
        raise ExpectationMissed(f"{len(below)} of {len(runs)} runs are below what is expected: {', '.join(below)}",
                                fix="take another of the runs, or change `evaluate.expect`")


def _run_one(run: SweepRun, selection: Selection, as_json: bool,
             outputs: Path) -> tuple[Run | None, str | None]:
    """The result of a run, or the message of the error that ended it."""
    from dbrun.ui.terminal import print_error

    try:
        return run_recipe(run.request, selection, as_json=as_json, quiet=True, outputs=outputs), None
    except Interrupted:
        # Ctrl-C ends the whole sweep, not one run.
        raise
    except DbrunError as error:
        if not as_json:
            print_error(error)
        return None, error.message


def _outcome_json(outcome: Run) -> dict[str, object]:
    outputs = str(outcome.outputs) if outcome.outputs else None
    return {"ran": outcome.ran, "cached": outcome.reused, "seconds": outcome.seconds,
            "loss": outcome.losses.get("loss"), "outputs": outputs,
            "scores": {name: asdict(score) for name, score in outcome.scores.items()}}
