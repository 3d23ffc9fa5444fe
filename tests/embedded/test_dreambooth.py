"""Does the recipe of the README teach the dog, leave other dogs as they are, and need its priors for that?"""

from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "sks_dog.yaml"


@pytest.mark.slow
def test_the_dog_is_learnt_and_other_dogs_stay_only_with_priors(judge, tmp_path: Path) -> None:
    from dreambooth import SKS_DOG, averaged

    kept = averaged(RECIPE, [], SKS_DOG, seeds=3, work=tmp_path)
    assert kept.subject >= 0.85 and kept.place >= 0.85, kept
    assert kept.leak <= 0.08 and kept.diversity >= 0.75, kept
    lost = averaged(RECIPE, ["prior=null", "subject.class_prompt=null"], SKS_DOG, seeds=3, work=tmp_path)
    assert lost.subject >= 0.85 and lost.leak >= 0.5, lost
