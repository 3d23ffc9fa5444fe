"""Scores of any adapter, as the stage `evaluate` of a recipe would measure it; other programs' files work too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbrun.errors import UsageError
from dbrun.events import Emit
from dbrun.expectations import Outcome, ScoreSummary
from dbrun.models.base import Model, families
from dbrun.plan.planner import make_scope
from dbrun.plan.scores import compare_with_expected, summarise
from dbrun.plan.selection import Selection
from dbrun.resolve.base import require_base_folder
from dbrun.stages.base import RuntimeOptions, StageContext
from dbrun.stages.load import BaseRecord, write_base_record
from dbrun.stages.sources import Artifact
from dbrun.store.canonical import digest, to_json_value
from dbrun.use.adapter_files import AdapterFile
from dbrun.use.bases import LocalBase

if TYPE_CHECKING:
    from dbrun.plan.planner import Scope
    from dbrun.recipe.load import LoadedRecipe
    from dbrun.resolve.sources import ResolvedSources
    from dbrun.stages.evaluate import EvaluateParams
    from dbrun.store.store import Store

STAGE = "evaluate"
FORMAT_VERSION = 1
"""The `format_version` of scores as JSON."""


@dataclass(frozen=True)
class ScoredAdapter:
    """The scores of one adapter. scores: as in scores.json; outcomes: of the recipe's expectations."""

    label: str
    place: Path
    scores: Mapping[str, Any]
    outcomes: tuple[Outcome, ...]

    @property
    def summaries(self) -> dict[str, ScoreSummary]:
        """Name → mean, spread over seeds and direction."""
        return summarise(self.scores)

    def to_json(self) -> dict[str, object]:
        """The scores as plain data."""
        return {"format_version": FORMAT_VERSION, "adapter": str(self.place), "name": self.label,
                "scores": dict(self.scores), "expectations": [outcome.to_json() for outcome in self.outcomes]}


def score_adapters(files: Sequence[AdapterFile], loaded: LoadedRecipe, resolved: ResolvedSources, store: Store,
                   emit: Emit, stop_signal: Callable[[], int]) -> tuple[ScoredAdapter, ...]:
    """Draw each adapter over the recipe's base, with its prompts and seeds, and measure its scores.

    Raises UsageError for a recipe without `evaluate`, a base that is not here, and an adapter of another kind of base.
    """
    recipe = loaded.recipe
    if recipe.evaluate is None:
        raise UsageError(f"{loaded.path} has no `evaluate`, which names the encoder to compare pictures in",
                         fix="write `evaluate: {clip: {path: embedded}}` into it, or name another recipe with --like")
    scope = make_scope(recipe, resolved, store, Selection(until=STAGE), None)
    base = _local_base(scope, loaded.path)
    for file in files:
        file.check_base(base)
    # only now: it imports torch
    from dbrun.stages.evaluate import ADAPTED, BASE, scores_document
    from dbrun.stages.support.scoring import base_row, score_rows

    params: EvaluateParams = scope.stages[STAGE].params(scope.recipe, resolved.sources)
    names = tuple(params.scores)
    rows = [_file_row(f"{ADAPTED} {number}", file, names) for number, file in enumerate(files)]
    with TemporaryDirectory() as folder:
        ctx = _context(scope, base, params, Path(folder), emit, stop_signal)
        try:
            measured = score_rows(ctx, params, [*rows, base_row(BASE, params.of_base)], tuple(base.family.components))
        finally:
            # frees the base, and sets torch back
            ctx.resident.close_failed()
    found: list[ScoredAdapter] = []
    for row, file in zip(rows, files, strict=True):
        document = scores_document(params, measured[row.label], measured[BASE])
        # as it is read from a file
        scores = json.loads(json.dumps(document))["scores"]
        found.append(ScoredAdapter(file.label, file.place, scores, compare_with_expected(recipe, scores)))
    return tuple(found)


def _local_base(scope: Scope, recipe_file: Path) -> LocalBase:
    """The recipe's base. Raises UsageError where it is not on this machine."""
    source, recipe = scope.resolved.sources.base, scope.recipe
    folder = require_base_folder(source, [str(recipe_file)])
    return LocalBase(families()[source.family], recipe.base.path, source.identity, folder, source.variant,
                     recipe.base.prompt_reading)


def _file_row(label: str, file: AdapterFile, scores: tuple[str, ...]) -> Any:
    """The row of an adapter's file, which its own format's library reads."""
    from dbrun.stages.support.scoring import Row
    from dbrun.use.blend import Blend

    def attach(model: Model) -> Callable[[], None]:
        blend = Blend(model)
        blend.apply([file])
        return blend.restore

    return Row(label, label, scores, attach)


class _TemporaryItems:
    """Items of one command, in a folder that goes with it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def get(self, key: Mapping[str, object], make: Callable[[Path], None]) -> Path:
        """The folder of the item with this key; if it is new, `make(folder)` fills it first."""
        place = self.home / digest(to_json_value(key))
        if not place.exists():
            place.mkdir(parents=True)
            make(place)
        return place

    def reuse_stored(self) -> None:
        """Do nothing: no item is older than the command."""


def _context(scope: Scope, base: LocalBase, params: EvaluateParams, folder: Path, emit: Emit,
             stop_signal: Callable[[], int]) -> StageContext[EvaluateParams]:
    """A context as the stage has it, with items that are not kept. folder: for all that the work needs."""
    load, out, work = folder / "load", folder / "out", folder / "work"
    for one in (load, out, work):
        one.mkdir()
    write_base_record(load, BaseRecord(base.family, base.variant, {}, base.reading))
    identity = hashlib.sha256(base.identity.encode()).hexdigest()
    runtime = RuntimeOptions(1, 1, offload=scope.recipe.base.offload is not None)
    return StageContext(stage=STAGE, params=params, numerics=scope.numerics,
                        inputs={"load": Artifact(load, identity)}, out=out, work=work, files=scope.resolved.files,
                        base=base.folder, items=_TemporaryItems(folder / "items"), runtime=runtime, emit=emit,
                        stop_signal=stop_signal)
