"""The delivered files of a run, each with what it is for, and the instructions of its model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbrun.disk_space import format_bytes
from dbrun.formats.base import Format, formats
from dbrun.formats.run_name import CARD
from dbrun.input_file import MAX_JSON_BYTES, read_file
from dbrun.models.base import families
from dbrun.stages.base import stages
from dbrun.store.store import Store
from dbrun.store.traces import Trace
from dbrun.ui.report.record import RunReport

USAGE_HEADING = "\n## How to use it\n"
DESCRIPTIONS = {
    CARD: "the model card, which the Hub shows", "before_after.png": "the pictures without and with the adapter",
    "loss.png": "the losses", "samples": "the same pictures one by one, with their settings",
    "scheduler": "the scheduler to sample with", "dbrun.json": "how all of it was made: recipe, versions, machine"}
"""File or folder of a delivery → what it is."""


@dataclass(frozen=True)
class FileLine:
    """A delivered file, or a folder of them. name: with a slash for a folder; size: as text; what: it is for."""

    name: str
    size: str
    what: str


@dataclass(frozen=True)
class UsageBlock:
    """A paragraph or a program of the instructions."""

    text: str
    is_code: bool


def file_lines(report: RunReport) -> list[FileLine]:
    """A line for each file or folder that the run delivers; [] before its export is done."""
    if report.export is None:
        return []
    names = _delivered_names(report.export, report.run.name)
    described = {**DESCRIPTIONS, **_adapter_files(report.recipe, names)}
    sizes: dict[str, int] = {}
    for file, entry in report.export.files.items():
        top = names[file].split("/")[0]
        group = names[file] if names[file] in described else top
        sizes[group] = sizes.get(group, 0) + entry.size
    lines = []
    for name, size in sizes.items():
        is_folder = name not in names.values()
        lines.append(FileLine(f"{name}/" if is_folder else name, format_bytes(size), described.get(name, "")))
    # what can be loaded first, then the smallest names
    return sorted(lines, key=lambda line: (not line.name.rstrip("/").endswith(".safetensors"), line.name))


def usage_blocks(report: RunReport, store: Store) -> list[UsageBlock]:
    """The instructions in the model card of the run's export; [] where there is none."""
    if report.export is None:
        return []
    try:
        card = read_file(store.objects.path(report.export.digest) / CARD, MAX_JSON_BYTES).decode(errors="replace")
    except OSError:
        return []
    _, found, text = card.partition(USAGE_HEADING)
    if not found:
        return []
    for old, new in _delivered_names(report.export, report.run.name).items():
        text = text.replace(f"`{old}`", f"`{new}`")
    return _parse_blocks(text.partition("\n## ")[0])


def _delivered_names(export: Trace, run_name: str) -> Mapping[str, str]:
    return stages()[export.stage].delivered_names(export.files, run_name)


def _adapter_files(recipe: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Delivered file of an adapter → which programs load it."""
    found: dict[str, str] = {}
    components = [str(component) for component, adapter in (recipe.get("adapt") or {}).items() if adapter]
    transformer = _is_transformer(recipe)
    for form in formats().values():
        if not form.FILE_DESCRIPTION:
            continue
        for component in components:
            for path in _relative_paths(form, component):
                if path in names:
                    found[names[path]] = f"{form.SUMMARY}; loads in {form.loads_in(transformer=transformer)}"
    return found


def _is_transformer(recipe: Mapping[str, Any]) -> bool:
    """Whether the base's denoiser is one; False for a base of a type that this dbrun does not know."""
    family = families().get(str((recipe.get("base") or {}).get("type")))
    return family is not None and family.components["denoiser"] == "transformer"


def _relative_paths(form: Format, component: str) -> tuple[str, ...]:
    """Paths of a format's files for a component; () for a format that names none."""
    try:
        return form.relative_paths(component)
    except (NotImplementedError, KeyError):
        return ()


def _parse_blocks(text: str) -> list[UsageBlock]:
    """The paragraphs and fenced programs of a piece of Markdown that `render_card` wrote."""
    blocks: list[UsageBlock] = []
    for number, piece in enumerate(text.split("```")):
        if number % 2:
            # the first line of a fence is its language
            blocks.append(UsageBlock(piece.partition("\n")[2].rstrip("\n"), is_code=True))
            continue
        paragraphs = [paragraph.strip() for paragraph in piece.split("\n\n")]
        blocks += [UsageBlock(paragraph, is_code=False) for paragraph in paragraphs if paragraph]
    return blocks
