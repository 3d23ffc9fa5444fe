"""Facts for a run's report that only the run itself knows: its recipe as written, its plan, its pictures as cropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from dbrun.images.thumbnails import every_nth, thumbnail_url
from dbrun.plan.memory import known_counts
from dbrun.run.run_metadata import redacted_recipe
from dbrun.secrets import redact_secrets
from dbrun.stages.support.sample_spec import sample_spec

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate
    from dbrun.plan.planner import Plan, Scope
    from dbrun.stages.sources import Picture

MAX_PICTURES = 48
"""Pictures of each half in a report; of more, these are spread evenly."""


def report_facts(scope: Scope, plan: Plan, written: Mapping[str, object],
                 known: Mapping[str, Estimate]) -> dict[str, object]:
    """The facts as JSON data, without secrets and absolute paths.

    written: the recipe as the user wrote it, from `recipe_as_written`; known: stage → its estimate.
    """
    recipe, sources = scope.recipe, scope.resolved.sources
    counted = known_counts(scope)
    stages: list[dict[str, object]] = []
    for stage in plan.stages:
        estimate, count = known.get(stage.name), counted.get(stage.name)
        stages.append({"name": stage.name, "status": stage.status.value, "reason": redact_secrets(str(stage.reason)),
                       "expected": estimate.seconds if estimate else None, "counted": count.total if count else None})
    spec = sample_spec(recipe, sources)
    return {"format_version": 1, "written": written, "recipe": redacted_recipe(recipe), "stages": stages,
            "device": scope.numerics.device,
            "prompts": [redact_secrets(prompt) for prompt in spec.prompts] if spec else [],
            "picture_counts": {"instance": len(sources.pictures), "class": len(sources.class_pictures)},
            "pictures": _pictures(scope)}


def _pictures(scope: Scope) -> list[dict[str, object]]:
    """The pictures of the user as they are cropped, each with its prompt and what is odd about it."""
    # imported here: measuring needs numpy
    from dbrun.resolve.picture_crops import draw_crops, pictures_of_rows
    from dbrun.resolve.picture_report import picture_rows

    recipe, sources = scope.recipe, scope.resolved.sources
    # of thousands of pictures only those that are shown are measured
    chosen = replace(sources, pictures=_spread(sources.pictures), class_pictures=_spread(sources.class_pictures))
    resolved = replace(scope.resolved, sources=chosen)
    rows = picture_rows(recipe, resolved, scope.store)
    crops = draw_crops(recipe, resolved, zip(rows, pictures_of_rows(resolved), strict=True))
    shown: list[dict[str, object]] = []
    for row, crop in zip(rows, crops, strict=True):
        # a picture that went since it was read stops the stage that needs it, not its report
        url = "" if crop is None else thumbnail_url(crop)
        shown.append({"half": row.half, "name": redact_secrets(row.name), "prompt": redact_secrets(row.prompt),
                      "width": row.width, "height": row.height, "lost": round(row.lost, 4), "ways": row.ways,
                      "mask": row.mask, "odd": list(row.odd), "url": url})
    return shown


def _spread(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    return tuple(pictures[index] for index in every_nth(len(pictures), MAX_PICTURES))
