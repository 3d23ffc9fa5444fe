"""Does a combined value weigh scores of any range and direction the same, against the base without adapter?"""

from __future__ import annotations

import pytest

from dbrun.scores.combined import combined_values


def test_the_candidate_that_has_learnt_the_subject_and_still_follows_prompts_comes_first() -> None:
    subject, prompt = [0.5, 0.8, 0.9], [0.30, 0.28, 0.20]
    # by hand: the base stands at 0.1 and 0.3; (0.5 - 0.1) / 0.8 and (0.30 - 0.20) / 0.1, …
    assert combined_values({"subject": subject, "prompt": prompt}, {"subject": 0.1, "prompt": 0.3}) == pytest.approx(
        (0.75, 0.8375, 0.5))


def test_a_lower_prior_is_better_and_scale_and_order_of_scores_count_nothing() -> None:
    base = {"subject": 0.0, "prior": 0.1}
    plain = combined_values({"subject": [0.5, 1.0], "prior": [0.1, 0.9]}, base)
    assert plain == pytest.approx((0.75, 0.5))
    scaled = combined_values({"prior": [1.0, 9.0], "subject": [50.0, 100.0]}, {"subject": 0.0, "prior": 1.0})
    assert scaled == pytest.approx(plain)


def test_without_the_base_noise_between_learnt_candidates_would_count_as_much_as_learning() -> None:
    """Both have learnt the subject: 0.01 more of it is no reason to take the one that follows no prompt."""
    means = {"subject": [0.86, 0.87], "prompt": [0.29, 0.20]}
    first, second = combined_values(means, {"subject": 0.1, "prompt": 0.3})
    assert first > second


def test_a_score_that_is_the_same_for_all_is_left_out() -> None:
    base = {"subject": 0.1, "prompt": 0.3}
    assert combined_values({"subject": [0.5, 0.9], "prompt": [0.3, 0.3]}, base) == pytest.approx((0.5, 1.0))
    assert combined_values({"subject": [0.1, 0.1], "prompt": [0.3, 0.3]}, base) == (0.0, 0.0)
