"""The page that lays runs side by side: what differs in their recipes, their losses, the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import dbrun
from dbrun.errors import UsageError
from dbrun.plan.diff_runs import flatten_values
from dbrun.store.runs import Run, list_runs
from dbrun.store.store import Store
from dbrun.ui.report.page import render_page
from dbrun.ui.report.plot import Plot, make_plot
from dbrun.ui.report.record import LOSSES, RunReader, RunReport
from dbrun.ui.report.run_page import STATES, find_reported_run

MAX_RUNS = 64
"""Runs on one page at most."""
MANY_RUNS, SMALL_SIDE = 12, 128
"""With more runs than this, pictures have this side in pixels."""
MAX_LABEL_KEYS, MAX_LABEL_LENGTH = 3, 60
"""Most differing keys, and most characters, of a label made of their values."""
SHOWN_LOSSES = ("loss", *LOSSES)
"""The losses that have a plot, in this order."""


@dataclass(frozen=True)
class ComparedRun:
    """A run on the page. label: as `_labels` gives it; values: of the keys that differ; losses: last, of each plot."""

    label: str
    report: RunReport
    values: tuple[str, ...]
    losses: tuple[str, ...]


@dataclass(frozen=True)
class PictureRow:
    """Pictures of one run, or of a base. urls: one for each column, None where it has no such prompt and seed."""

    label: str
    urls: tuple[str | None, ...]


def find_runs(store: Store, words: Sequence[str]) -> list[Run]:
    """The runs that words name, each once: ids, names, delivered folders, or patterns such as `dog-*`.

    Raises UsageError for a word that names none.
    """
    found: dict[str, Run] = {}
    for word in words:
        for run in _matching(store, word) or [find_reported_run(store, word)]:
            found.setdefault(run.id, run)
    if len(found) > MAX_RUNS:
        raise UsageError(f"found {len(found)} runs, allowed: at most {MAX_RUNS}", fix="name fewer of them")
    return list(found.values())


def _matching(store: Store, word: str) -> list[Run]:
    """The newest run of each name that a pattern matches, sorted by name; [] for a word that is no pattern."""
    if not any(character in word for character in "*?["):
        return []
    newest: dict[str, Run] = {}
    for run in list_runs(store):
        if fnmatchcase(run.name, word):
            newest.setdefault(run.name, run)
    return [newest[name] for name in sorted(newest)]


def render_comparison(store: Store, runs: Sequence[Run], *, live: int = 0, home: str = "") -> str:
    """The page of several runs. live: as of `render_run`; home: address of the page of all runs, "" for none."""
    reader = RunReader(store, SMALL_SIDE) if len(runs) > MANY_RUNS else RunReader(store)
    reports = [reader.read(run, brief=True) for run in runs]
    keys, values = _differences(reports)
    labels = _labels(reports, keys, values)
    plots = _plots(labels, reports)
    losses = tuple(plots)
    compared = [ComparedRun(label, report, own, _last_losses(label, plots))
                for label, report, own in zip(labels, reports, values, strict=True)]
    columns, rows = _picture_rows(labels, reports)
    is_running = any(report.state == "running" for report in reports)
    return render_page("compare.html.j2", runs=compared, keys=keys, losses=losses, plots=plots, columns=columns,
                       rows=rows, states=STATES, live=live if is_running else 0, home=home, version=dbrun.__version__)


def _differences(reports: Sequence[RunReport]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The keys of the recipes that differ, and the values of each run; "" where a recipe does not have the key."""
    recipes = [dict(flatten_values("", report.recipe)) for report in reports]
    keys: dict[str, None] = {}
    for recipe in recipes:
        keys.update(dict.fromkeys(recipe))
    differing: list[str] = []
    for key in keys:
        values = {recipe.get(key) for recipe in recipes}
        # names differ always, and say nothing
        if key != "name" and len(values) > 1:
            differing.append(key)
    rows: list[tuple[str, ...]] = []
    for recipe in recipes:
        rows.append(tuple(recipe.get(key) or "" for key in differing))
    return differing, rows


def _labels(reports: Sequence[RunReport], keys: Sequence[str], values: Sequence[tuple[str, ...]]) -> list[str]:
    """A short label for each run: the values that differ where those are few, else its name, else its id."""
    if 0 < len(keys) <= MAX_LABEL_KEYS:
        # the last part of a key is enough to tell values apart
        short = [key.rpartition(".")[2] for key in keys]
        texts: list[str] = []
        for own in values:
            texts.append(", ".join(f"{key} {value}" for key, value in zip(short, own, strict=True)))
        if len(set(texts)) == len(texts) and max(map(len, texts)) <= MAX_LABEL_LENGTH:
            return texts
    names = [report.run.name for report in reports]
    return names if len(set(names)) == len(names) else [report.run.id for report in reports]


def _plots(labels: Sequence[str], reports: Sequence[RunReport]) -> dict[str, Plot]:
    """Name of a loss → its plot, with a line for each run that has it."""
    plots: dict[str, Plot] = {}
    for name in SHOWN_LOSSES:
        series = {label: report.losses[name] for label, report in zip(labels, reports, strict=True)
                  if name in report.losses}
        plot = make_plot(series)
        if plot is not None:
            plots[name] = plot
    return plots


def _last_losses(label: str, plots: Mapping[str, Plot]) -> tuple[str, ...]:
    """The last smoothed value of a run in each plot, "" where it has none."""
    found = []
    for plot in plots.values():
        found.append(next((line.last for line in plot.lines if line.name == label), ""))
    return tuple(found)


def _picture_rows(labels: Sequence[str],
                  reports: Sequence[RunReport]) -> tuple[list[tuple[str, int]], list[PictureRow]]:
    """The columns (prompt, seed), and a row for each base and each run; empty without any pictures."""
    adapted: list[PictureRow] = []
    bases: dict[tuple[str | None, ...], str] = {}
    columns: dict[tuple[str, int], None] = {}
    for report in reports:
        if report.comparison:
            columns.update(dict.fromkeys((prompt, seed) for prompt, seed, _, _ in report.comparison.pairs))
    for label, report in zip(labels, reports, strict=True):
        if report.comparison is None:
            continue
        base = {(prompt, seed): url for prompt, seed, url, _ in report.comparison.pairs}
        own = {(prompt, seed): url for prompt, seed, _, url in report.comparison.pairs}
        # one row for a base that several runs share
        bases.setdefault(tuple(base.get(column) for column in columns), label)
        adapted.append(PictureRow(label, tuple(own.get(column) for column in columns)))
    named = [PictureRow("base" if len(bases) == 1 else f"base of {label}", urls) for urls, label in bases.items()]
    return list(columns), [*named, *adapted]
