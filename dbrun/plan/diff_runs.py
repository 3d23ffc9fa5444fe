"""How do two runs on record differ: in their recipes, in their stages' keys, in what came of them?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.plan.diff_keys import format_value
from dbrun.store.runs import EVENTS_FILE, RECIPE_FILE, Run, list_runs
from dbrun.store.store import Store

DiffRow = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class RunDiff:
    """Rows of name, the first run's value, the second's. same_stages: stages that both runs asked the same."""

    recipe: tuple[DiffRow, ...]
    stages: tuple[DiffRow, ...]
    results: tuple[DiffRow, ...]
    same_stages: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The comparison as plain data."""
        return {"recipe": {name: [a, b] for name, a, b in self.recipe},
                "stages": {name: [a, b] for name, a, b in self.stages},
                "results": {name: [a, b] for name, a, b in self.results}, "same_stages": list(self.same_stages)}


def find_run(store: Store, word: str) -> Run:
    """The run that a word means: its id, the beginning of one id, or a name, which means its newest run."""
    every = list_runs(store)
    exact = [run for run in every if word in (run.id, run.name)]
    begun = [run for run in every if run.id.startswith(word)]
    if exact or len(begun) == 1:
        return (exact or begun)[0]
    if begun:
        raise UsageError(f"{len(begun)} runs begin with {word!r}", fix=f"write more of it, such as {begun[0].id}")
    raise UsageError(f"there is no run {word!r} in {store.root}", fix="dbrun runs shows what there is")


def compare_runs(store: Store, first: Run, second: Run) -> RunDiff:
    """Lay two runs beside each other."""
    a, b = dict(_flatten("", _read_json(first, RECIPE_FILE))), dict(_flatten("", _read_json(second, RECIPE_FILE)))
    keys = [run.roots.keys if run.roots else {} for run in (first, second)]
    stages = list(dict.fromkeys((*keys[0], *keys[1])))
    same = tuple(name for name in stages if keys[0].get(name) == keys[1].get(name))
    results = [{"state": run.state, **_results(store, run)} for run in (first, second)]
    return RunDiff(_rows(a, b), tuple((name, _short_key(keys[0].get(name)), _short_key(keys[1].get(name)))
                                      for name in stages if name not in same),
                   _rows(*results), same)


def read_events(run: Run) -> list[dict[str, object]]:
    """All that was written down of a run while it went on; a line that was cut off is left out."""
    found = []
    try:
        lines = (run.folder / EVENTS_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def last_loss(trained: Path) -> float | None:
    """The mean loss over the last tenth of a training's `metrics.jsonl`, None where it has none."""
    try:
        lines = (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [loss for line in lines if isinstance(loss := json.loads(line).get("loss"), (int, float))]
    except (OSError, ValueError):
        return None
    last = losses[-max(1, len(losses) // 10):]
    return sum(last) / len(last) if last else None


def _results(store: Store, run: Run) -> Mapping[str, str]:
    key = run.roots.keys.get("train") if run.roots else None
    trace = store.traces.read("train", key) if key else None
    loss = last_loss(store.objects.path(trace.digest)) if trace else None
    taken = run.last_event.get("seconds") if run.last_event else None
    found = {"loss": f"{loss:.4g}" if loss is not None else None,
             "seconds": f"{taken:.1f}" if isinstance(taken, (int, float)) else None,
             "outputs": str(run.last_event["outputs"]) if run.last_event and run.last_event.get("outputs") else None}
    return {name: text for name, text in found.items() if text is not None}


def _rows(a: Mapping[str, str], b: Mapping[str, str]) -> tuple[DiffRow, ...]:
    return tuple((name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name))


def _read_json(run: Run, name: str) -> object:
    try:
        return json.loads((run.folder / name).read_bytes())
    except (OSError, ValueError):
        return {}


def _flatten(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flatten(f"{name}.{key}" if name else key, below)
    elif (text := format_value(value)) is not None:
        yield name, text


def _short_key(key: str | None) -> str | None:
    return f"{key[:10]}…" if key else None
