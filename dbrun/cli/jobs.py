"""The work of the verbs `jobs` and `submit`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dbrun.errors import DbrunError, UsageError
from dbrun.events import RunFailed
from dbrun.ui.terminal import pluralize, print_result, print_status

if TYPE_CHECKING:
    from dbrun.engines.planning import PlannedJobs


def plan_words(words: Sequence[str], profiles: Sequence[str] | None, sweeps: Sequence[str] | None, each: Path | None,
               outputs: Path, store: Path | None, *, elsewhere: bool = True) -> PlannedJobs:
    """The jobs that words of a command line ask for. Raises DbrunError. each: the table; elsewhere: as in `Scope`."""
    from dbrun.cli.words import parse_request, split_recipes
    from dbrun.engines.planning import plan_jobs
    from dbrun.engines.rows import read_rows
    from dbrun.ui.waiting import show_elapsed

    recipes, overrides = split_recipes(words)
    if not recipes:
        raise UsageError("no recipe is named", fix="name one or several, such as recipes/*.yaml")
    requests = [parse_request(recipe, overrides, profiles, store) for recipe in recipes]
    rows = read_rows(each) if each is not None else None
    with show_elapsed("planning the runs"):
        return plan_jobs(requests, rows=rows, sweeps=sweeps or (), outputs=outputs, elsewhere=elsewhere)


def check_form(form: str | None, *, as_json: bool) -> None:
    """Raise UsageError if the jobs cannot be written so; called first, since planning thousands of runs takes minutes.

    form: value of `--as`, None without it.
    """
    from dbrun.engines.scripts import FORMS
    from dbrun.recipe.checks.suggestions import nearest

    if form is not None and form not in FORMS:
        close = nearest(form, FORMS)
        raise UsageError(f"found --as {form!r}; allowed are {', '.join(FORMS)}",
                         fix=f"write --as {close or next(iter(FORMS))}, or use --json")
    if form is not None and as_json:
        raise UsageError("found --as and --json", fix="leave one of them out")


def show_jobs(plan: PlannedJobs, *, form: str | None, as_json: bool) -> None:
    """Print the jobs: a table, JSON, or with form a text for another program."""
    from dbrun.engines.scripts import FORMS
    from dbrun.ui.jobs import JobRow, jobs_table, note_lines
    from dbrun.ui.plan import stop_text

    if as_json:
        notes = [{"stage": note.stage, "text": note.text, "level": note.level, "runs": count}
                 for note, count in plan.notes.items()]
        print_result(json.dumps({**plan.graph.to_json(), "notes": notes}))
        return
    for line in note_lines(plan.notes, plan.graph.runs):
        print_status(line)
    if form is not None:
        print_result(FORMS[form](plan.graph.jobs), end="")
    else:
        rows = [JobRow(job.title, job.status.value, job.stages, job.gpus, job.memory, job.seconds)
                for job in plan.graph.jobs]
        print_result(jobs_table(rows, plan.graph.runs))
    stop = plan.stop
    if stop is not None:
        print_status(stop_text(stop))


def submit_words(words: Sequence[str], profiles: Sequence[str] | None, sweeps: Sequence[str] | None,
                 each: Path | None, outputs: Path, store: Path | None, *, engine_name: str, gpus: int | None,
                 follow: bool, as_json: bool) -> None:
    """Submit the jobs that words ask for, follow them, and print how they ended.

    Raises StageFailed if one failed, Interrupted, and DbrunError if none could be submitted.
    """
    from contextlib import closing

    from dbrun.engines.submit import check_ended, find_engine, submit_to
    from dbrun.run.signals import stop_signals
    from dbrun.ui.jobs import JobReporter, note_lines
    from dbrun.ui.progress import JsonReporter

    with _failure_as_event(as_json):
        engine_class = find_engine(engine_name)
        plan = plan_words(words, profiles, sweeps, each, outputs, store, elsewhere=engine_class.elsewhere)
        if plan.stop is not None:
            raise plan.stop
        engine = engine_class(plan.store.root, gpus)
        engine.check()
    jobs = plan.graph.jobs
    if not as_json:
        for line in note_lines(plan.notes, plan.graph.runs):
            print_status(line)
    reporter = JsonReporter() if as_json else JobReporter(len(jobs))
    with closing(reporter), closing(engine), stop_signals() as cancel:
        reports = submit_to(engine, jobs, reporter, cancel, follow=follow)
    if follow:
        check_ended(jobs, reports)
    else:
        print_status(f"{pluralize(len(jobs), 'job')} submitted; the same command follows them")


@contextmanager
def _failure_as_event(as_json: bool) -> Iterator[None]:
    """Context manager: with --json, print a DbrunError as the event run_failed, and raise it."""
    try:
        yield
    except DbrunError as error:
        if as_json:
            print_result(json.dumps(RunFailed.by(error).to_json()))
        raise
