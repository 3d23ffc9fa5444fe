"""The work of `--sweep`: each combination of values is a run, all planned together, run one after another."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

from dbrun.cli.run import read_request, run_recipe
from dbrun.cli.words import RecipeRequest
from dbrun.errors import DbrunError, Interrupted, StageFailed, UsageError
from dbrun.events import Note, SweepFinished
from dbrun.plan.diff_runs import last_loss
from dbrun.plan.planner import Plan, Scope, make_scope, plan_scope
from dbrun.plan.sweep_plan import SharedWork, shared_work
from dbrun.recipe.load import load_with_problems
from dbrun.recipe.text.spans import InvalidRecipe, Problem
from dbrun.ui.terminal import print_result, print_status

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.selection import Selection
    from dbrun.run.runner import RunResult

MAX_RUNS = 256
MAX_NAME_LENGTH = 64
"""Characters of a run's name."""
DIGEST_DIGITS = 8
"""Of the digest in a name."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep. values: the swept keys with its values; scope_and_plan: what it will do."""

    name: str
    values: tuple[tuple[str, str], ...]
    request: RecipeRequest
    scope_and_plan: tuple[Scope, Plan]


def plan_runs(asked: RecipeRequest, sweeps: Sequence[str], selection: Selection, *,
              decode: bool = False) -> list[SweepRun]:
    """The runs of a sweep, each planned; all that is wrong with any of them is raised before one begins.

    decode: read every picture to its last pixel.
    """
    combined = list(product(*_parse_axes(sweeps)))
    if len(combined) > MAX_RUNS:
        raise UsageError(f"found {len(combined)} combinations, allowed: at most {MAX_RUNS}", fix="sweep fewer values")
    found: list[SweepRun] = []
    wrong: list[Problem] = []
    for values in combined:
        try:
            found.append(_plan_run(asked, values, selection, decode))
        except InvalidRecipe as error:
            wrong += [_widen_problem(problem, sweeps) for problem in error.problems]
    if wrong:
        raise InvalidRecipe(wrong)
    if len({member.name for member in found}) < len(found):
        raise UsageError("two runs of the sweep have the same name", fix="sweep `name` alone, or leave it out")
    return found


def _widen_problem(problem: Problem, sweeps: Sequence[str]) -> Problem:
    """A problem with a swept key itself, in the words of the whole sweep: it is the same one for each value."""
    place = problem.span
    if place is None or place.file is not None:
        return problem
    key = place.text.partition("=")[0]
    whole = next((word for word in sweeps if word.partition("=")[0] == key), None)
    if whole is None or place.column + place.length - 1 > len(key):
        return problem
    return replace(problem, span=replace(place, text=whole))


def _plan_run(asked: RecipeRequest, values: tuple[tuple[str, str], ...], selection: Selection,
              decode: bool) -> SweepRun:
    one = replace(asked, overrides=(*asked.overrides, *map("=".join, values)))
    name = _run_name(load_with_problems(one.recipe, one.overrides, one.profiles)[0].recipe.name, values)
    one = replace(one, overrides=(*one.overrides, f"name={name}"))
    loaded, resolved, store = read_request(one, decode=decode)
    scope = make_scope(loaded.recipe, resolved, store, selection, None)
    return SweepRun(name, values, one, (scope, plan_scope(scope)))


def show_sweep(runs: Sequence[SweepRun], *, as_json: bool) -> bool:
    """Show the runs as one plan, shared stages and notes once; whether anything is to be done."""
    from dbrun.plan.estimate import estimate_sweep
    from dbrun.ui.plan import stop_text
    from dbrun.ui.sweep import note_lines, work_table

    planned, values = [run.scope_and_plan for run in runs], [run.values for run in runs]
    work, notes = shared_work(planned), _collect_notes(runs)
    known = estimate_sweep(planned, work)
    if as_json:
        print_result(json.dumps(_as_json(runs, work, known, notes), indent=1))
    else:
        for line in note_lines(notes, values):
            print_status(line)
        print_result(work_table(work, values, known))
        if (stop := _combined_stop(runs)) is not None:
            print_status(stop_text(stop))
    return any(run.scope_and_plan[1].has_pending for run in runs)


def _combined_stop(runs: Sequence[SweepRun]) -> DbrunError | None:
    """What stops runs of a sweep before their first stage, each reason once with those that it stops."""
    from dbrun.plan.preflight import preflight_error
    from dbrun.ui.sweep import combine_stops

    found: dict[str, tuple[DbrunError, list[int]]] = {}
    for number, run in enumerate(runs):
        scope, plan = run.scope_and_plan
        if (stop := preflight_error(plan, shlex.join(run.request.words), scope.store)) is not None:
            found.setdefault(stop.message, (stop, []))[1].append(number)
    return combine_stops(list(found.values()), [run.values for run in runs]) if found else None


def refuse_blocked(runs: Sequence[SweepRun], *, as_json: bool) -> None:
    """Raise DbrunError where any of the runs would stop before its first stage."""
    from dbrun.events import RunFailed
    from dbrun.events import as_json as plain

    if (stop := _combined_stop(runs)) is not None:
        if as_json:
            print_result(json.dumps(plain(RunFailed(None, stop.message, stop.fix, stop.exit_code))))
        raise stop


def _collect_notes(runs: Sequence[SweepRun]) -> dict[Note, list[int]]:
    """What is to be known before the runs, each with the numbers of those that it is about."""
    found: dict[Note, list[int]] = {}
    for number, run in enumerate(runs):
        for note in dict.fromkeys(run.scope_and_plan[0].resolved.notes):
            found.setdefault(note, []).append(number)
    return found


def _as_json(runs: Sequence[SweepRun], work: Sequence[SharedWork], known: Sequence[Estimate | None],
             notes: Mapping[Note, Sequence[int]]) -> dict[str, object]:
    def names(numbers: Sequence[int]) -> list[str]:
        return [runs[number].name for number in numbers]

    return {
        "format_version": 1,
        "runs": [{"name": run.name, "values": dict(run.values), **run.scope_and_plan[1].as_json()} for run in runs],
        "stages": [{"name": one.plan.name, "status": one.plan.status.value, "runs": names(one.runs)} for one in work],
        "estimates": [{"stage": one.plan.name, "runs": names(one.runs), **asdict(estimate)}
                      for one, estimate in zip(work, known, strict=True) if estimate],
        "notes": [{"stage": note.stage, "text": note.text, "level": note.level, "runs": names(numbers)}
                  for note, numbers in notes.items()]}


def run_sweep(runs: Sequence[SweepRun], selection: Selection, *, as_json: bool) -> None:
    """Run each; one that fails does not stop the others. Raises StageFailed at the end where one failed."""
    from dbrun.events import as_json as plain
    from dbrun.ui.sweep import results_table
    from dbrun.workers.env import read_distributed_env

    if read_distributed_env(os.environ) is not None:
        raise UsageError("a launcher's processes share one run, and a sweep is several",
                         fix="leave the launcher out; `launch.processes=N` shares each run of the sweep")
    results: list[dict[str, object]] = []
    for run in runs:
        if not as_json:
            print_status("")
        outcome, failure = _run_one(run, selection, as_json)
        results.append({"name": run.name, "values": dict(run.values), "failed": failure,
                        **(_outcome_json(outcome) if outcome else {})})
    if as_json:
        print_result(json.dumps(plain(SweepFinished(tuple(results)))))
    else:
        print_status("")
        print_result(results_table(results))
    if failed := [str(result["name"]) for result in results if result["failed"]]:
        raise StageFailed(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}",
                          fix="the same command goes on with what is missing")


def _run_one(run: SweepRun, selection: Selection, as_json: bool) -> tuple[RunResult | None, str | None]:
    from dbrun.ui.terminal import print_error

    try:
        return run_recipe(run.request, selection, as_json=as_json, quiet=True), None
    except Interrupted:
        raise
    except DbrunError as error:
        if not as_json:
            print_error(error)
        return None, error.message


def _outcome_json(outcome: RunResult) -> dict[str, object]:
    train = outcome.artifacts.get("train")
    return {"ran": len(outcome.ran), "cached": len(outcome.reused), "seconds": outcome.seconds,
            "loss": last_loss(train.path) if train else None,
            "outputs": str(outcome.outputs) if outcome.outputs else None}


def _parse_axes(sweeps: Sequence[str]) -> Iterator[list[tuple[str, str]]]:
    seen: set[str] = set()
    for word in sweeps:
        key, equals, text = word.partition("=")
        values = list(dict.fromkeys(split_values(text)))
        if not equals or not key.strip() or not all(values):
            raise UsageError(f"found --sweep {word!r}; a sweep is written key=value,value",
                             fix="such as --sweep train.learning_rate=1e-4,2e-4")
        if key in seen:
            raise UsageError(f"found two sweeps of {key}", fix=f"write --sweep {key}=… once, with all values")
        seen.add(key)
        yield [(key, value) for value in values]


def split_values(text: str) -> list[str]:
    """The values between commas; a comma inside brackets or quotes divides nothing."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth == 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def _run_name(name: str, values: Sequence[tuple[str, str]]) -> str:
    """The recipe's name with what is swept; where not all of that can be a name, its digest keeps it apart."""
    if any(key == "name" for key, _ in values):
        return name
    whole = "-".join([name, *(f"{key}-{value}" for key, value in values)])
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", whole)
    if kept == whole and len(whole) <= MAX_NAME_LENGTH:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:DIGEST_DIGITS]
    return f"{kept[:MAX_NAME_LENGTH - DIGEST_DIGITS - 1].rstrip('._-')}-{digest}"
