"""The stage `select`: chooses the candidate of the training that is exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import read_index
from dbrun.errors import StageFailed
from dbrun.naming import METRICS_FILE, SELECTION_FILE
from dbrun.options.packages import OptionalPackage
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.scoring import HELD_OUT_LOSS
from dbrun.recipe.schema.scoring import Select as SelectSection
from dbrun.scores.base import ScoreValue, scores
from dbrun.scores.combined import combined_values
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support import cost
from dbrun.stages.support.base_loading import quantisation_packages, sampling_numerics
from dbrun.stages.support.candidates import candidate_folder, candidate_steps
from dbrun.stages.support.memory import NO_MEMORY, CountedMemory
from dbrun.stages.support.scoring_cost import max_scoring_bytes, scoring_advice, scoring_memory, scoring_workload
from dbrun.stages.support.scoring_params import ScoringParams, scoring_params
from dbrun.stages.support.training_length import training_length
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.training.dry_run import DryRun


BASE = "base"
"""Label of the base without adapter among the candidates that are measured."""
Table = list[dict[str, object]]
"""The scores of each candidate, by its `step`, as selection.json holds them."""


@dataclass(frozen=True)
class SelectParams(ScoringParams):
    """The params of the stage `select`.

    by: the score that decides, or several, sorted; keep: `best`, `last` or the step of a candidate.
    """

    WORDS: ClassVar[Mapping[str, str]] = {**ScoringParams.WORDS, "prompts": "select.prompts",
                                          "class_prompt": "select.class_prompt", "seeds": "select.seeds",
                                          "encoders": "select.clip", "by": "select.by", "keep": "select.keep"}

    by: str | tuple[str, ...] = "subject"
    keep: str | int = "best"

    @property
    def draws_pictures(self) -> bool:
        """Whether candidates are compared by pictures."""
        return bool(self.prompts)

    @property
    def deciding(self) -> tuple[str, ...]:
        """Names of the scores that decide, or that of the held-out loss."""
        return (self.by,) if isinstance(self.by, str) else self.by

    def count_all_pictures(self, candidates: int) -> int:
        """The number of pictures of so many candidates, and of the base where several scores are combined."""
        if not self.draws_pictures:
            return 0
        rows = candidates if isinstance(self.by, str) else candidates + 1
        return rows * self.count_pictures(self.deciding)


class Select(Stage[SelectParams]):
    """Scores the candidates on pictures that are drawn for the choice alone, and hands the chosen adapter on."""

    NAME: ClassVar[str] = "select"
    # 2: its pictures are drawn in blocks, whose lowest bits are not those of pictures drawn one by one
    VERSION: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("load", "train")
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "numpy",
                                            "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.images.pixels", "dbrun.models", "dbrun.scores",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.candidates", "dbrun.stages.support.drawing",
        "dbrun.stages.support.score_encoders", "dbrun.stages.support.scoring", "dbrun.training.device")

    def applies_to(self, recipe: Recipe) -> bool:
        """Whether the recipe has `select`."""
        return recipe.select is not None

    def params(self, recipe: Recipe, sources: Sources) -> SelectParams:
        """The score that decides, and the prompts, seeds and encoders of its pictures."""
        select = recipe.select or SelectSection.from_defaults()
        fields = scoring_params(recipe, sources, "select")
        if not select.draws_pictures:
            # what is not drawn changes nothing
            fields |= {"prompts": (), "texts": (), "class_prompt": None, "seeds": (), "pictures": (), "encoders": {}}
        # the order of the scores changes nothing
        by = select.by if isinstance(select.by, str) else tuple(sorted(select.by))
        return SelectParams(**fields, by=by, keep=select.keep)

    def required_packages(self, params: SelectParams) -> tuple[OptionalPackage, ...]:
        """The package of the quantisation, if pictures are drawn with one."""
        return quantisation_packages(params.quantise) if params.draws_pictures else ()

    def key_numerics(self, params: SelectParams, numerics: Numerics) -> Mapping[str, str]:
        """The precision in which its pictures are drawn."""
        return sampling_numerics(params.precision, numerics)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of pictures of all candidates, and for each its sampler steps times pixels."""
        params = self.params(recipe, sources)
        candidates = recipe.train.candidates
        count = 0
        if candidates is not None:
            steps = candidates.steps_until(training_length(recipe, sources).steps)
            count = params.count_all_pictures(len(steps))
        return scoring_workload(recipe, params, count)

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The drawing of a picture, or an encoder beside the base."""
        params = self.params(recipe, sources)
        return scoring_memory(recipe, dry_run, params) if params.draws_pictures else NO_MEMORY

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """Blocks in CPU memory, then what also trains anew."""
        return scoring_advice(recipe, device)

    def max_disk_bytes(self, ctx: StageContext[SelectParams]) -> int:
        """Each picture with its embeddings, and a copy of the chosen adapter."""
        params, trained = ctx.params, ctx.inputs["train"].path
        count = params.count_all_pictures(len(candidate_steps(trained)))
        return max_scoring_bytes(params, count) + cost.adapter_file_bytes(trained)

    def run(self, ctx: StageContext[SelectParams]) -> None:
        """Write the adapter of the chosen candidate, laid out as in `train`, and selection.json with every score."""
        params, trained = ctx.params, ctx.inputs["train"].path
        steps = candidate_steps(trained)
        table: Table = []
        if params.keep == "last":
            chosen = steps[-1]
        elif isinstance(params.keep, int):
            chosen = params.keep
        elif params.by == HELD_OUT_LOSS:
            chosen, table = _least_loss(trained, steps)
        elif isinstance(params.by, str):
            chosen, table = _best_score(ctx, params.by, steps)
        else:
            chosen, table = _best_combined(ctx, params.by, steps)
        folder = candidate_folder(trained, chosen)
        if not folder.is_dir():
            raise StageFailed(f"the training has no candidate of step {chosen}: it stopped after step {steps[-1]}",
                              fix="write `keep: last` under `select`")
        for path in sorted(folder.iterdir()):
            shutil.copyfile(path, ctx.out / path.name)
        document = {"format_version": 1, "by": params.by, "keep": params.keep, "step": chosen, "candidates": table}
        (ctx.out / SELECTION_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        why = ""
        if params.keep == "best":
            why = f", the best by {' and '.join(params.deciding)}"
        ctx.note(f"the adapter after step {chosen} of {steps[-1]} is kept{why}")


def _best_score(ctx: StageContext[SelectParams], name: str, steps: Sequence[int]) -> tuple[int, Table]:
    """The step with the best mean score, the earliest of equal ones; and a table of all candidates."""
    measured = _measure(ctx, (name,), steps)
    sign = 1.0 if scores()[name].HIGHER_IS_BETTER else -1.0
    table: Table = []
    ranked: list[tuple[float, int]] = []
    for step in steps:
        value = measured[str(step)][name]
        table.append({"step": step, **asdict(value)})
        ranked.append((-sign * value.mean, step))
    return min(ranked)[1], table


def _best_combined(ctx: StageContext[SelectParams], names: Sequence[str], steps: Sequence[int]) -> tuple[int, Table]:
    """The step with the highest combined value, the earliest of equal ones; and a table of all candidates.

    In the table the base without adapter is step 0; it cannot be chosen.
    """
    measured = _measure(ctx, names, steps, base=True)
    of_base, means = {}, {}
    for name in names:
        of_base[name] = measured[BASE][name].mean
        means[name] = [measured[str(step)][name].mean for step in steps]
    combined = combined_values(means, of_base)
    table: Table = [{"step": 0, "scores": _as_data(measured[BASE])}]
    ranked: list[tuple[float, int]] = []
    for step, value in zip(steps, combined, strict=True):
        table.append({"step": step, "combined": value, "scores": _as_data(measured[str(step)])})
        ranked.append((-value, step))
    return min(ranked)[1], table


def _measure(ctx: StageContext[SelectParams], names: Sequence[str], steps: Sequence[int],
             base: bool = False) -> dict[str, dict[str, ScoreValue]]:
    """Draw and measure candidates, with `base` the base without adapter, too: step or BASE -> score -> its value."""
    from dbrun.stages.support.scoring import base_row, score_rows, stored_row

    trained = ctx.inputs["train"].path
    rows = [stored_row(str(step), candidate_folder(trained, step), tuple(names)) for step in steps]
    if base:
        rows.append(base_row(BASE, tuple(names)))
    measured = score_rows(ctx, ctx.params, rows, tuple(read_index(trained)))
    values: dict[str, dict[str, ScoreValue]] = {}
    for label, found in measured.items():
        values[label] = {name: one.value for name, one in found.items()}
    return values


def _as_data(values: Mapping[str, ScoreValue]) -> dict[str, object]:
    """Scores by name as plain data."""
    return {name: asdict(value) for name, value in values.items()}


def _least_loss(trained: Path, steps: Sequence[int]) -> tuple[int, Table]:
    """The step with the least held-out loss, the earliest of equal ones; and a table of those that have one."""
    losses: dict[int, float] = {}
    for line in (trained / METRICS_FILE).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("held_out_loss") is not None:
            losses[row["step"]] = row["held_out_loss"]
    ranked = [(losses[step], step) for step in steps if step in losses]
    if not ranked:
        raise StageFailed("no candidate has a finite held-out loss", fix="choose by a score: `by: subject`")
    table: Table = []
    for loss, step in ranked:
        table.append({"step": step, "mean": loss})
    return min(ranked)[1], table
