"""Rules for `evaluate`, `select` and `train.candidates`: what a score needs, and which candidate can be kept."""

from __future__ import annotations

from collections.abc import Iterator

from dbrun.errors import KeyProblem
from dbrun.models.base import families
from dbrun.naming import COMMIT, HUB_ID
from dbrun.recipe.schema.model import Recipe
from dbrun.recipe.schema.scoring import HELD_OUT_LOSS, Scoring, Select
from dbrun.scores.base import scores

NAME_ENCODER = "`clip: {path: embedded}`, a folder, or a Hub id with its commit as `revision`"


def check_scores(recipe: Recipe) -> Iterator[KeyProblem]:
    """Problems of `evaluate` and `select` that need neither base nor pictures."""
    for section in ("evaluate", "select"):
        scoring: Scoring | None = getattr(recipe, section)
        if scoring is not None:
            yield from _encoders(section, scoring)
            yield from _subject_pictures(recipe, section)
    if recipe.evaluate is not None:
        if not recipe.evaluate.encoders:
            yield KeyProblem("evaluate", "found no encoder to compare pictures in", f"write {NAME_ENCODER}")
        else:
            yield from _expectations(recipe)
    if recipe.select is not None:
        yield from _selection(recipe)


def check_kept_step(recipe: Recipe, steps: int) -> Iterator[KeyProblem]:
    """A step in `select.keep` that no candidate of a training of `steps` steps has."""
    select, candidates = recipe.select, recipe.train.candidates
    if select is None or candidates is None or not isinstance(select.keep, int):
        return
    allowed = candidates.steps_until(steps)
    kept = select.keep
    if kept not in allowed:
        near = min(allowed, key=lambda step: abs(step - kept))
        shown = ", ".join(str(step) for step in allowed[:8])
        more = " …" if len(allowed) > 8 else ""
        yield KeyProblem("select.keep",
                         f"found {kept}, but no candidate has this step; allowed: best, last, {shown}{more}",
                         f"write `keep: {near}`")


def _encoders(section: str, scoring: Scoring) -> Iterator[KeyProblem]:
    for role, encoder in scoring.encoders.items():
        key = f"{section}.{role}.revision"
        if encoder.revision is None:
            continue
        if not HUB_ID.fullmatch(encoder.path):
            yield KeyProblem(key, f"found a revision, but '{encoder.path}' is no Hub id such as owner/name",
                             "remove `revision`")
        elif not COMMIT.fullmatch(encoder.revision):
            yield KeyProblem(key, f"found '{encoder.revision}', allowed: a commit of 40 digits",
                             "take it from the repository's page on the Hub: a branch may change what scores mean")


def _subject_pictures(recipe: Recipe, section: str) -> Iterator[KeyProblem]:
    family = families()[recipe.base.type]
    if len(recipe.subjects_by_key) > 1:
        yield KeyProblem(section, "found several subjects, but scores compare with the pictures of one",
                         "evaluate each with a recipe of its own, or remove it")
    if family.start_image_reason is not None:
        yield KeyProblem(section, f"`base.type: {family.NAME}` draws no pictures from text alone: it "
                         f"{family.start_image_reason}", "remove it")


def _expectations(recipe: Recipe) -> Iterator[KeyProblem]:
    evaluate = recipe.evaluate
    assert evaluate is not None, "the caller has checked it"
    if evaluate.expect is None:
        return
    for name in evaluate.expect.texts:
        yield from _score(recipe, f"evaluate.expect.{name}", name, "evaluate")


def _score(recipe: Recipe, key: str, name: str, section: str) -> Iterator[KeyProblem]:
    """What a score that the recipe names lacks. key: that names it; section: whose pictures it measures."""
    score, scoring = scores()[name], getattr(recipe, section)
    named = recipe.score_encoders.get(section, {})
    if score.encoder_role(named) is None:
        found = " and ".join(f"`{role}`" for role in named) or "no encoder"
        yield KeyProblem(key, f"{score.missing_encoder_reason}, but `{section}` names {found}",
                         f"name one under `{section}`, such as {NAME_ENCODER}")
    has_class = scoring.class_prompt or any(subject.class_prompts for subject in recipe.subjects_by_key.values())
    if score.PICTURES == "class_prompt" and not has_class:
        yield KeyProblem(key, f"{name} measures pictures of the bare class, and no prompt names it",
                         f"write `class_prompt: a photo of a dog` under `{section}`")
    if scoring.seeds < score.MIN_SEEDS:
        yield KeyProblem(key, f"{name} compares pictures of one prompt, and `{section}.seeds: {scoring.seeds}` draws "
                         "only one", f"write `seeds: {score.MIN_SEEDS}` or more")


def _selection(recipe: Recipe) -> Iterator[KeyProblem]:
    select, train = recipe.select, recipe.train
    assert select is not None, "the caller has checked it"
    if train.candidates is None:
        yield KeyProblem("select", "found a choice, but the training keeps no candidates to choose from",
                         "write `candidates: {every: 100}` under `train`, or remove `select`")
        return
    if not select.draws_pictures:
        yield from _without_effect(select)
    if select.keep != "best":
        return
    if select.by != HELD_OUT_LOSS:
        yield from _deciding_scores(recipe, select)
    elif train.held_out is None:
        yield KeyProblem("select.by", f"found '{HELD_OUT_LOSS}', but no picture is held out",
                         "write `held_out: {}` under `train`, or choose by a score such as subject")
    elif train.candidates.every % train.held_out.every:
        yield KeyProblem("select.by", f"found '{HELD_OUT_LOSS}', but candidates come every {train.candidates.every} "
                         f"steps, and the held-out loss every {train.held_out.every}: most candidates have none",
                         f"write `every: {train.candidates.every}` under `train.held_out`")


def _deciding_scores(recipe: Recipe, select: Select) -> Iterator[KeyProblem]:
    """What the scores that decide lack, each at its place in a list."""
    names = select.deciding
    for index, name in enumerate(names):
        key = "select.by" if len(names) == 1 else f"select.by.{index}"
        if name in names[:index]:
            yield KeyProblem(key, f"found '{name}' twice", "name each score once")
        else:
            yield from _score(recipe, key, name, "select")


def _without_effect(select: Select) -> Iterator[KeyProblem]:
    """Settings of pictures where the choice draws none."""
    why = f"`by: {select.by}`" if select.keep == "best" else f"`keep: {select.keep}`"
    for field in ("clip", "dino", "prompts", "class_prompt", "seeds"):
        if field in select.model_fields_set and getattr(select, field) is not None:
            yield KeyProblem(f"select.{field}", f"found settings of pictures, but {why} compares none", "remove it")
