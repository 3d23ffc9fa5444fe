"""Is what a recipe says of pictures complete, and refused where it does not fit together?"""

import pytest

from dbrun.recipe.schema.images import Images
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.store.canonical import to_json_value


@pytest.mark.parametrize(("change", "words"), [
    ("images.crops=4", "images.crops: found 4, but `crop: center` makes only one crop"),
    ("images.buckets={step: 24}", "images.buckets.step: found 24, but `images.resolution: 64` is not a multiple of it"),
    ("images.buckets={min_side: 128}", "images.buckets.min_side: found 128, more than `images.resolution: 64`"),
    ("images.buckets={max_side: 32}", "images.buckets.max_side: found 32, less than `images.resolution: 64`"),
    ("images.crop=middle", "images.crop: found 'middle', allowed: center or random"),
    ("images.masks=sidecar", "images.masks: found 'sidecar', allowed: none, files or alpha"),
    ("objective.unmasked_weight=0.2", "objective.unmasked_weight: found 0.2, but no picture has a mask"),
    ("objective={unmasked_weight: 2}", "objective.unmasked_weight: found '2', allowed: a number"),
    ("images.random_flip=true", "unknown key; here it is called 'images.flip'"),
    ("images.enable_bucket=true", "unknown key; here it is called 'images.buckets'"),
])
def test_what_does_not_fit_is_refused_by_name(load, good, change: str, words: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, change)
    assert words in str(caught.value)


@pytest.mark.parametrize("change", [
    "images={buckets: {}}", "images={crop: random, crops: 3, flip: true}", "images.buckets={min_side: 64}",
    "images={masks: alpha}; objective={unmasked_weight: 0}", "images={buckets: null, crops: null}"])
def test_what_fits_is_taken(load, good, change: str) -> None:
    load(good, *change.split("; "))


def test_what_is_left_out_leaves_no_mark_in_a_key() -> None:
    assert to_json_value(Images()) == {"resolution": 512, "background": "#ffffff"}
    assert (Images().random_crops, Images(crop="random").random_crops, Images(crop="random", crops=3).random_crops
            ) == (0, 8, 3)
    assert not Images(masks="alpha").needs_picture_size and Images(flip=True).needs_picture_size
