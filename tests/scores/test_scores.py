"""Is each score its paper's formula, and does it move the way that it claims?"""

import numpy as np
import pytest
import torch
from torch import Tensor

from dbrun.scores.base import EmbeddedPictures, Score, measurable_scores, scores

PROMPTS, SEEDS = (0, 0, 0, 1, 1, 1), (5, 6, 7, 5, 6, 7)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def random_rows(count: int, seed: int) -> Tensor:
    return unit(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)))


def pictures(vectors: Tensor) -> EmbeddedPictures:
    return EmbeddedPictures(vectors, PROMPTS, SEEDS)


def references(score: Score) -> Tensor:
    counts = {"instances": 4, "texts": 2, "none": 0}
    return random_rows(counts[score.REFERENCES], seed=1)


def mean_to_instances(index: int, rows: np.ndarray, instances: np.ndarray) -> float:
    return float(np.mean([np.dot(rows[index], instance) for instance in instances]))


def to_own_text(index: int, rows: np.ndarray, texts: np.ndarray) -> float:
    return float(np.dot(rows[index], texts[PROMPTS[index]]))


def mean_distance(index: int, rows: np.ndarray, _: np.ndarray) -> float:
    others = [place for place in range(len(rows)) if place != index and PROMPTS[place] == PROMPTS[index]]
    return float(np.mean([1 - np.dot(rows[index], rows[other]) for other in others]))


FORMULAS = {"subject": mean_to_instances, "subject_clip": mean_to_instances, "prior": mean_to_instances,
            "prompt": to_own_text, "diversity": mean_distance}
"""Score → the value of one picture by its paper's words, pair by pair."""


def test_every_score_has_its_formula_here() -> None:
    assert set(FORMULAS) == set(scores())


@pytest.mark.parametrize("name", scores())
def test_a_score_is_its_formula_with_its_spreads(name: str) -> None:
    score, vectors = scores()[name], random_rows(6, seed=0)
    others = references(score)
    rows, compared = vectors.double().numpy(), others.double().numpy()
    expected = np.array([FORMULAS[name](index, rows, compared) for index in range(6)]).reshape(2, 3)
    found = score.measure(pictures(vectors), others)
    assert found.mean == pytest.approx(expected.mean(), abs=1e-12) and found.count == 6
    assert found.spread_prompts == pytest.approx(expected.mean(axis=1).std(ddof=1), abs=1e-12)
    assert found.spread_seeds == pytest.approx(expected.mean(axis=0).std(ddof=1), abs=1e-12)


@pytest.mark.parametrize("name", scores())
def test_a_score_says_what_it_is(name: str) -> None:
    score = scores()[name]
    assert score.LABEL and "Ruiz et al. 2023" in score.SOURCE and score.ENCODERS and type(score).__doc__
    if name == "diversity":
        assert "LPIPS" in score.LABEL and "LPIPS" in score.SOURCE


def test_each_score_moves_the_way_it_claims() -> None:
    """Pictures that come nearer to what they should show, and class pictures that turn into the subject."""
    target, start = random_rows(1, seed=2).repeat(6, 1), random_rows(6, seed=3)
    near, far = unit(start + 3 * target), unit(start + 0.3 * target)
    for name in ("subject", "subject_clip", "prompt"):
        score = scores()[name]
        assert score.HIGHER_IS_BETTER
        assert score.measure(pictures(near), target).mean > score.measure(pictures(far), target).mean
    # class pictures that all are the subject: worse by both scores of the class
    prior, diversity = scores()["prior"], scores()["diversity"]
    assert not prior.HIGHER_IS_BETTER and diversity.HIGHER_IS_BETTER
    assert prior.measure(pictures(near), target).mean > prior.measure(pictures(far), target).mean
    assert diversity.measure(pictures(near), target).mean < diversity.measure(pictures(far), target).mean
    assert diversity.measure(pictures(target), target).mean == pytest.approx(0, abs=1e-6)


def test_one_prompt_or_one_seed_has_no_spread() -> None:
    score, rows = scores()["subject"], random_rows(2, seed=0)
    one_prompt = score.measure(EmbeddedPictures(rows, (0, 0), (1, 2)), rows)
    assert one_prompt.spread_prompts is None and one_prompt.spread_seeds is not None
    one_seed = score.measure(EmbeddedPictures(rows, (0, 1), (1, 1)), rows)
    assert one_seed.spread_seeds is None and one_seed.spread_prompts is not None


def test_nothing_to_measure_is_an_error() -> None:
    rows = random_rows(2, seed=0)
    with pytest.raises(ValueError, match="no picture to score"):
        EmbeddedPictures(rows[:0], (), ())
    with pytest.raises(ValueError, match="2 embeddings, 1 prompts"):
        EmbeddedPictures(rows, (0,), (1, 2))
    with pytest.raises(ValueError, match="no picture to compare"):
        scores()["subject"].measure(EmbeddedPictures(rows, (0, 0), (1, 2)), rows[:0])
    with pytest.raises(ValueError, match="two pictures or more"):
        scores()["diversity"].measure(EmbeddedPictures(rows, (0, 1), (1, 1)), rows[:0])


def test_a_score_is_measured_in_dino_where_it_is_named_and_each_number_comes_once() -> None:
    assert {name: role for name, (_, role) in measurable_scores(["clip"]).items()} == {
        "subject": "clip", "prompt": "clip", "prior": "clip", "diversity": "clip"}
    assert {name: role for name, (_, role) in measurable_scores(["dino"]).items()} == {
        "subject": "dino", "prior": "dino", "diversity": "dino"}
    assert {name: role for name, (_, role) in measurable_scores(["clip", "dino"]).items()} == {
        "subject": "dino", "subject_clip": "clip", "prompt": "clip", "prior": "dino", "diversity": "dino"}
    assert scores()["prompt"].missing_encoder_reason == "prompt needs `clip`"
    assert scores()["subject_clip"].missing_encoder_reason.startswith("subject_clip needs `clip` and `dino`")
