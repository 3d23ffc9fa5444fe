"""The stage `evaluate`: scores the exported adapter, so that a recipe can say what it expects of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dbrun.adapters.adapter_io import read_index
from dbrun.expectations import parse_expectation
from dbrun.input_file import read_json
from dbrun.naming import SCORES_FILE
from dbrun.options.packages import OptionalPackage
from dbrun.recipe.schema.model import Recipe
from dbrun.scores.encoder import encoder_types
from dbrun.stages.base import Stage, StageContext
from dbrun.stages.sources import Numerics, Sources
from dbrun.stages.support.base_loading import quantisation_packages, sampling_numerics
from dbrun.stages.support.candidates import adapter_stage
from dbrun.stages.support.memory import CountedMemory
from dbrun.stages.support.scoring_cost import max_scoring_bytes, scoring_advice, scoring_memory, scoring_workload
from dbrun.stages.support.scoring_params import ScoringParams, scoring_params
from dbrun.workload import Workload

if TYPE_CHECKING:
    from dbrun.stages.support.scoring import Measured
    from dbrun.training.dry_run import DryRun

ADAPTED, BASE = "adapted", "base"
"""Labels of the rows: pictures with the adapter and without."""


@dataclass(frozen=True)
class EvaluateParams(ScoringParams):
    """The params of the stage `evaluate`. of_base: scores that are measured of the bare base, too."""

    NEUTRAL: ClassVar[Mapping[str, object]] = {**ScoringParams.NEUTRAL, "of_base": ()}
    WORDS: ClassVar[Mapping[str, str]] = {**ScoringParams.WORDS, "prompts": "evaluate.prompts",
                                          "class_prompt": "evaluate.class_prompt", "seeds": "evaluate.seeds",
                                          "encoders": "evaluate.clip", "of_base": "evaluate.expect"}

    of_base: tuple[str, ...] = ()


class Evaluate(Stage[EvaluateParams]):
    """Draws the adapter's pictures over prompts and seeds, and measures every score that the encoders allow."""

    NAME: ClassVar[str] = "evaluate"
    # 2: its pictures are drawn in blocks, whose lowest bits are not those of pictures drawn one by one
    VERSION: ClassVar[int] = 2
    delivers: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("load", "train", "select")
    # an adapter is in the store before it is judged: encoders that fail cost no export
    runs_after: ClassVar[tuple[str, ...]] = ("export",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "diffusers", "transformers", "tokenizers", "peft", "numpy",
                                            "pillow")
    modules: ClassVar[tuple[str, ...]] = (
        "dbrun.adapters", "dbrun.images.pixels", "dbrun.models", "dbrun.scores",
        "dbrun.stages.support.base_loading", "dbrun.stages.support.drawing", "dbrun.stages.support.score_encoders",
        "dbrun.stages.support.scoring", "dbrun.training.device")

    def applies_to(self, recipe: Recipe) -> bool:
        """Whether the recipe has `evaluate`."""
        return recipe.evaluate is not None

    def params(self, recipe: Recipe, sources: Sources) -> EvaluateParams:
        """Prompts, seeds, pictures, encoders, and the scores that the base is measured for."""
        params = EvaluateParams(**scoring_params(recipe, sources, "evaluate"))
        expected: Mapping[str, str] = {}
        if recipe.evaluate is not None and recipe.evaluate.expect is not None:
            expected = recipe.evaluate.expect.texts
        of_base: list[str] = []
        for name, (score, _) in params.scores.items():
            compared = name in expected and parse_expectation(expected[name]).of_base
            # what became of the class says nothing without what it was
            if compared or score.PICTURES == "class_prompt":
                of_base.append(name)
        return replace(params, of_base=tuple(of_base))

    def required_packages(self, params: EvaluateParams) -> tuple[OptionalPackage, ...]:
        """The package of the quantisation, if there is one."""
        return quantisation_packages(params.quantise)

    def key_numerics(self, params: EvaluateParams, numerics: Numerics) -> Mapping[str, str]:
        """The precision in which its pictures are drawn."""
        return sampling_numerics(params.precision, numerics)

    def workload(self, recipe: Recipe, sources: Sources) -> Workload:
        """The number of pictures, and for each its sampler steps times pixels."""
        params = self.params(recipe, sources)
        rows = (tuple(params.scores), params.of_base)
        return scoring_workload(recipe, params, sum(params.count_pictures(names) for names in rows))

    def count_memory(self, recipe: Recipe, sources: Sources, dry_run: DryRun) -> CountedMemory:
        """The drawing of a picture, or an encoder beside the base."""
        return scoring_memory(recipe, dry_run, self.params(recipe, sources))

    def memory_advice(self, recipe: Recipe, device: str) -> tuple[str, ...]:
        """Blocks in CPU memory, then what also trains anew."""
        return scoring_advice(recipe, device)

    def max_disk_bytes(self, ctx: StageContext[EvaluateParams]) -> int:
        """Each picture with its embeddings, and scores.json."""
        params = ctx.params
        rows = (tuple(params.scores), params.of_base)
        return max_scoring_bytes(params, sum(params.count_pictures(names) for names in rows))

    def complete_delivery(self, folder: Path) -> tuple[str, ...]:
        """Add the scores to the model card, if one is delivered."""
        from dbrun.formats.run_name import CARD
        from dbrun.formats.score_card import scores_section

        card = folder / CARD
        if not card.is_file():
            return ()
        document = read_json(folder / SCORES_FILE)
        card.write_text(card.read_text(encoding="utf-8") + scores_section(document), encoding="utf-8")
        return (CARD,)

    def run(self, ctx: StageContext[EvaluateParams]) -> None:
        """Write scores.json: each score with its spreads, direction, source and encoder, and the value of each picture.
        """
        from dbrun.stages.support.scoring import base_row, score_rows, stored_row

        params = ctx.params
        folder = ctx.inputs[adapter_stage(ctx.inputs)].path
        rows = [stored_row(ADAPTED, folder, tuple(params.scores))]
        if params.of_base:
            rows.append(base_row(BASE, params.of_base))
        measured = score_rows(ctx, params, rows, tuple(read_index(folder)))
        document = scores_document(params, measured[ADAPTED], measured.get(BASE, {}))
        (ctx.out / SCORES_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def scores_document(params: ScoringParams, adapted: Mapping[str, Measured],
                    base: Mapping[str, Measured]) -> dict[str, object]:
    """The content of scores.json. adapted, base: name of a score -> result with the adapter and without."""
    encoders: dict[str, object] = {}
    for role, files in params.encoders.items():
        label = next(kind.LABEL for kind in encoder_types().values() if role == kind.ROLE)
        encoders[role] = {"kind": label, "files": dict(files)}
    scores: dict[str, object] = {}
    for name, found in adapted.items():
        score, role = params.scores[name]
        entry: dict[str, object] = {
            **asdict(found.value), "higher_is_better": score.HIGHER_IS_BETTER, "label": score.LABEL,
            "source": score.SOURCE, "encoder": role, "pictures_of": score.PICTURES,
            "per_picture": [list(values) for values in found.per_picture]}
        if name in base:
            entry["base"] = asdict(base[name].value)
        scores[name] = entry
    return {"format_version": 1, "prompts": list(params.prompts), "texts": list(params.texts),
            "class_prompt": params.class_prompt, "seeds": list(params.seeds), "encoders": encoders, "scores": scores}
