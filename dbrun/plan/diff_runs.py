"""Differences between two recorded runs: in their recipes, their stages' keys and their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbrun.errors import UsageError
from dbrun.input_file import parse_json_lines, read_file, read_json
from dbrun.plan.diff_keys import format_value
from dbrun.plan.losses import final_losses
from dbrun.store.runs import EVENTS_FILE, RECIPE_FILE, Run, list_runs
from dbrun.store.store import Store

DiffRow = tuple[str, str | None, str | None]
"""Name, value in the first run, value in the second; None where a run has none."""
MAX_EVENTS_BYTES = 2**30
"""Largest file of events in bytes."""


@dataclass(frozen=True)
class RunDiff:
    """Differences of two runs, as rows. same_stages: names of the stages with the same key in both."""

    recipe: tuple[DiffRow, ...]
    stages: tuple[DiffRow, ...]
    results: tuple[DiffRow, ...]
    same_stages: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Comparison as JSON data: by name, the pair of values."""
        return {"recipe": {name: [a, b] for name, a, b in self.recipe},
                "stages": {name: [a, b] for name, a, b in self.stages},
                "results": {name: [a, b] for name, a, b in self.results}, "same_stages": list(self.same_stages)}


def find_run(store: Store, word: str) -> Run:
    """Run with this id, with an id that alone begins so, or the newest with this name. Raises UsageError for none."""
    # the newest comes first
    runs = list_runs(store)
    exact = [run for run in runs if word in (run.id, run.name)]
    with_prefix = [run for run in runs if run.id.startswith(word)]
    if exact or len(with_prefix) == 1:
        return (exact or with_prefix)[0]
    if with_prefix:
        raise UsageError(f"{len(with_prefix)} runs begin with {word!r}",
                         fix=f"write more of an id, such as {with_prefix[0].id}")
    raise UsageError(f"there is no run {word!r} in {store.root}", fix="`dbrun runs` lists all")


def compare_runs(store: Store, first: Run, second: Run) -> RunDiff:
    """Compare the recipes, keys and results of two runs. A stage whose key is recorded in neither is left out."""
    first_recipe = dict(flatten_values("", _read_json(first, RECIPE_FILE)))
    second_recipe = dict(flatten_values("", _read_json(second, RECIPE_FILE)))
    first_keys, second_keys = _recorded_keys(first), _recorded_keys(second)
    # in the order of the stages, those that only the second run has at the end
    stages = list(dict.fromkeys((*first_keys, *second_keys)))
    same = tuple(name for name in stages if first_keys.get(name) == second_keys.get(name))
    changed = tuple((name, _short_key(first_keys.get(name)), _short_key(second_keys.get(name)))
                    for name in stages if name not in same)
    return RunDiff(_rows(first_recipe, second_recipe), changed, _rows(_results(store, first), _results(store, second)),
                   same)


def _recorded_keys(run: Run) -> Mapping[str, str]:
    """Stage → cache key, as far as the run came."""
    return run.roots.keys if run.roots else {}


def read_events(run: Run) -> list[dict[str, object]]:
    """Events that a run recorded, in order; [] if it recorded none."""
    try:
        data = read_file(run.folder / EVENTS_FILE, MAX_EVENTS_BYTES)
    except OSError:
        return []
    return parse_json_lines(data.splitlines())


def _results(store: Store, run: Run) -> Mapping[str, str]:
    """State of a run, and its loss, seconds and outputs as far as they are recorded."""
    results = {"state": run.state}
    key = _recorded_keys(run).get("train")
    trace = store.traces.read("train", key) if key else None
    loss = final_losses(store.objects.path(trace.digest)).get("loss") if trace else None
    if loss is not None:
        results["loss"] = f"{loss:.4g}"
    last_event = run.last_event or {}
    seconds, outputs = last_event.get("seconds"), last_event.get("outputs")
    if isinstance(seconds, (int, float)):
        results["seconds"] = f"{seconds:.1f}"
    if outputs:
        results["outputs"] = str(outputs)
    return results


def _rows(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[DiffRow, ...]:
    """Rows of the names whose values differ, in the order of `a`, then of `b`."""
    return tuple((name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name))


def _read_json(run: Run, name: str) -> object:
    try:
        return read_json(run.folder / name)
    except (OSError, ValueError):
        return {}


def flatten_values(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of every value in nested dicts, without those that are None."""
    if isinstance(value, dict):
        for key, below in value.items():
            dotted = f"{name}.{key}" if name else key
            yield from flatten_values(dotted, below)
        return
    text = format_value(value)
    if text is not None:
        yield name, text


def _short_key(key: str | None) -> str | None:
    return f"{key[:10]}…" if key else None
