"""Is what a score lacks told before anything runs, with the key and the way out?"""

from __future__ import annotations

import pytest

from dbrun.recipe.text.spans import InvalidRecipe

CLIP = "clip: {path: embedded}"
DINO = "dino: {path: embedded}"
KEPT = "train.candidates={every: 100}"


@pytest.mark.parametrize(("words", "key", "message", "fix"), [
    (["evaluate={}"], "evaluate", "found no encoder", "clip: {path: embedded}"),
    ([f"evaluate={{{DINO}, expect: {{prompt: '>= 0.2'}}}}"], "evaluate.expect.prompt",
     "prompt needs `clip`, but `evaluate` names `dino`", "name one under `evaluate`"),
    ([f"evaluate={{{CLIP}, expect: {{subject_clip: '>= 0.2'}}}}"], "evaluate.expect.subject_clip",
     "subject_clip needs `clip` and `dino`", "name one under `evaluate`"),
    ([f"evaluate={{{CLIP}, seeds: 1, expect: {{diversity: '>= 0.8 of base'}}}}"], "evaluate.expect.diversity",
     "`evaluate.seeds: 1` draws only one", "write `seeds: 2` or more"),
    (["prior=null", "subject.class_prompt=null", f"evaluate={{{CLIP}, expect: {{prior: '<= 0.5'}}}}"],
     "evaluate.expect.prior", "no prompt names it", "class_prompt: a photo of a dog"),
    (["evaluate={clip: {path: a/b, revision: main}}"], "evaluate.clip.revision", "allowed: a commit of 40 digits",
     "take it from the repository's page"),
    (["evaluate={clip: {path: ./here, revision: main}}"], "evaluate.clip.revision", "is no Hub id", "remove"),
    (["select={}"], "select", "the training keeps no candidates", "candidates: {every: 100}"),
    ([KEPT, "select={}"], "select.by", "subject needs `dino` or `clip`, but `select` names no encoder", "name one"),
    ([KEPT, "select={keep: 250}"], "select.keep", "allowed: best, last, 100, 200, 300", "write `keep: 200`"),
    ([KEPT, "select={by: held_out_loss}"], "select.by", "no picture is held out", "held_out: {}"),
    ([KEPT, "train.held_out={every: 30}", "select={by: held_out_loss}"], "select.by", "most candidates have none",
     "write `every: 100`"),
    ([KEPT, "select={keep: last, seeds: 3}"], "select.seeds", "`keep: last` compares none", "remove it"),
    ([f"evaluate={{{CLIP}, expect: {{subjct: '>= 0.2'}}}}"], "evaluate.expect.subjct",
     "'evaluate.expect.subject'?", ""),
    ([f"evaluate={{{CLIP}, expect: {{subject: 'high'}}}}"], "evaluate.expect.subject", "such as '>= 0.7'", ""),
    ([KEPT, f"select={{{CLIP}, by: subjet}}"], "select.by", "did you mean 'subject'?", ""),
    ([KEPT, f"select={{{CLIP}, by: [subject, promt]}}"], "select.by.1", "did you mean 'prompt'?", ""),
    ([KEPT, f"select={{{CLIP}, by: []}}"], "select.by", "found an empty list", ""),
    ([KEPT, f"select={{{CLIP}, by: [subject, prompt, subject]}}"], "select.by.2", "found 'subject' twice",
     "name each score once"),
    ([KEPT, f"select={{{CLIP}, by: [subject, held_out_loss]}}"], "select.by.1",
     "found 'held_out_loss', allowed: diversity, prior, prompt, subject or subject_clip", ""),
    ([KEPT, f"select={{{DINO}, by: [subject, prompt]}}"], "select.by.1", "prompt needs `clip`", "name one"),
])
def test_what_a_score_lacks_is_told_at_its_key(load, good, words: list[str], key: str, message: str,
                                               fix: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, *words)
    (problem,) = caught.value.problems
    assert problem.key == key and message in problem.message and fix in (problem.fix or "")


@pytest.mark.parametrize("words", [
    [f"evaluate={{{CLIP}, expect: {{subject: '>= 0.7', prior: '<= -0.2', diversity: '>=0.8  of base'}}}}"],
    [KEPT, f"evaluate={{{CLIP}}}", "select={}"], [KEPT, f"select={{{CLIP}, by: prompt, keep: best}}"],
    [KEPT, f"select={{{CLIP}, by: [subject, prompt]}}"],
    [KEPT, "select={keep: 200}"], [KEPT, "select={keep: last}"],
    [KEPT, "train.held_out={every: 50}", "select={by: held_out_loss}"],
    ["prior=null", "subject.class_prompt=null",
     f"evaluate={{{CLIP}, class_prompt: a photo of a dog, expect: {{prior: '<= 0.5'}}}}"]])
def test_what_is_complete_is_taken(load, good, words: list[str]) -> None:
    load(good, *words)


def test_a_list_of_one_score_is_the_score(load, good) -> None:
    assert load(good, KEPT, f"select={{{CLIP}, by: [prompt]}}").recipe.select.by == "prompt"


def test_select_uses_the_encoders_of_evaluate_unless_it_names_its_own(load, good) -> None:
    shared = load(good, KEPT, f"evaluate={{{CLIP}}}", "select={}").recipe
    assert shared.score_encoders["select"] == shared.evaluate.encoders
    own = load(good, KEPT, f"evaluate={{{CLIP}}}", f"select={{{DINO}}}").recipe
    assert list(own.score_encoders["select"]) == ["dino"]
    assert "select" not in load(good, KEPT, f"evaluate={{{CLIP}}}", "select={keep: last}").recipe.score_encoders
