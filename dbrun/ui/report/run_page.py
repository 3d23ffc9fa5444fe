"""The page of one run: what it shows, from the run's record and the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dbrun
from dbrun.input_file import read_json
from dbrun.plan.diff_runs import find_run
from dbrun.safetensors_header import RECORD_FILE, trigger_words
from dbrun.store.runs import Run, read_run
from dbrun.store.store import Store
from dbrun.ui.report.files import file_lines, usage_blocks
from dbrun.ui.report.page import render_page
from dbrun.ui.report.plot import make_plot
from dbrun.ui.report.record import RunReader, RunReport
from dbrun.ui.terminal import format_duration

STATES = {"running": "running", "done": "done", "failed": "failed", "interrupted": "stopped", "killed": "ended"}
"""State of a run → its word on the page."""


def render_run(reader: RunReader, run: Run, *, state: str | None = None, live: int = 0, written: int | None = None,
               home: str = "") -> str:
    """The page of a run as it is now.

    state: where the run is about to record it itself; live: seconds after which the page of a running run reads itself
    again; written: now, in seconds since 1970, for such a page; home: address of the page of all runs, "" for none.
    """
    report = reader.read(run, state=state)
    plot, files = make_plot(report.losses), file_lines(report)
    usage = usage_blocks(report, reader.store)
    percent = 0
    if report.progress:
        percent = round(100 * report.progress["done"] / max(1, report.progress["total"]))
    recipe = report.facts.get("written") or {}
    preview_data = {"steps": [preview.step for preview in report.previews], "prompts": report.prompts,
                    "urls": [preview.urls for preview in report.previews]}
    return render_page(
        "run.html.j2", report=report, state=STATES[report.state], plot=plot, files=files, usage=usage,
        percent=percent, running=_running(report), facts=_facts(report), preview_data=preview_data,
        sections=_sections(report, plot is not None, bool(files)), live=live if report.state == "running" else 0,
        written=written, home=home, recipe_files=recipe.get("files") or (), command=_command(recipe),
        resolved=_as_yaml(report.recipe), version=dbrun.__version__)


def render_finished(store: Store, run_id: str) -> bytes:
    """The page that is delivered with a run's results: of a run that has done all its work and is about to end."""
    return render_run(RunReader(store), read_run(store.runs / run_id), state="done").encode()


def find_reported_run(store: Store, word: str) -> Run:
    """The run that a word names: its id or name, or a folder that it delivered. Raises UsageError for none."""
    try:
        name = str(read_json(Path(word) / RECORD_FILE)["recipe"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return find_run(store, word)
    return find_run(store, name)


def _running(report: RunReport) -> str:
    return next((stage.name for stage in report.stages if stage.state == "running"), "")


def _facts(report: RunReport) -> list[tuple[str, str]]:
    """Name and value of what a reader wants to know first."""
    recipe = report.recipe
    facts: list[tuple[str, str]] = []
    trigger = trigger_words({key: value for key, value in recipe.items() if value is not None})
    if trigger:
        facts.append(("trigger", trigger))
    base = recipe.get("base") or {}
    if base.get("path"):
        facts.append(("base", str(base["path"])))
    facts += [(f"learns: {component}", adapter_text(adapter))
              for component, adapter in (recipe.get("adapt") or {}).items() if adapter]
    train = recipe.get("train") or {}
    if report.steps_done:
        facts.append(("steps", f"{report.steps_done:,}"))
    if train.get("learning_rate"):
        facts.append(("learning rate", f"{train['learning_rate']:g}"))
    if report.picture_counts.get("instance"):
        facts.append(("pictures", str(report.picture_counts["instance"])))
    facts.append(("began", report.started))
    if report.seconds is not None:
        facts.append(("took" if report.state != "running" else "so far", format_duration(report.seconds)))
    if report.facts.get("device"):
        facts.append(("device", str(report.facts["device"])))
    return facts


def adapter_text(adapter: Mapping[str, Any]) -> str:
    """An adapter in a few words: `lora, rank 16`."""
    numbers = [f"{key} {adapter[key]}" for key in ("rank", "factor", "token") if adapter.get(key)]
    return ", ".join([str(adapter.get("type")), *numbers])


def _sections(report: RunReport, has_plot: bool, has_files: bool) -> list[tuple[str, str]]:
    """Id and title of the sections that the page has, in their order."""
    halves = {picture.half for picture in report.pictures}
    sections = [
        ("before-after", "Before and after", report.comparison is not None),
        ("scores", "Scores", bool(report.scores)),
        ("candidates", "Candidates", report.candidates is not None),
        ("previews", "While it learnt", bool(report.previews)),
        ("losses", "Losses", has_plot),
        ("pictures-instance", "Pictures", "instance" in halves),
        ("pictures-class", "Class pictures", "class" in halves),
        ("class-images", "Class images", bool(report.class_pictures.shown)),
        ("stages", "Stages", bool(report.stages)),
        ("files", "Files", has_files),
        ("recipe", "Recipe", True)]
    return [(name, title) for name, title, is_there in sections if is_there]


def _command(written: Mapping[str, Any]) -> Sequence[str]:
    """Profiles and overrides that the run was begun with."""
    words: list[str] = []
    for profile in written.get("profiles") or ():
        words.append(f"--profile {profile}")
    return [*words, *map(str, written.get("overrides") or ())]


def _as_yaml(recipe: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(_without_none(recipe), sort_keys=False, allow_unicode=True, width=100)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value
