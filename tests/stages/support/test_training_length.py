"""Is the arithmetic of pictures, batches, steps and epochs right, and are equal lengths equal runs?"""

import pytest

from dbrun.errors import RecipeError
from dbrun.models.base import Sampling
from dbrun.options.ema import Ema
from dbrun.recipe.schema.images import Buckets, Images
from dbrun.recipe.schema.launch import Launch
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.export import Export
from dbrun.stages.sources import BaseSource, Picture, Sources
from dbrun.stages.support.training_length import describe_length, training_length
from dbrun.stages.train import Train
from dbrun.training.sampler import Epoch, micro_batch

BASE = BaseSource("files:x", "sd", None, None, {}, Sampling(2, 2.0))


def recipe(**train: object) -> Recipe:
    return Recipe.model_validate({
        "schema": "dbrun/v1", "name": "x", "base": {"path": "base"}, "train": train,
        "subject": {"images": "pictures", "instance_prompt": "a photo of sks dog"},
        "adapt": {"denoiser": {"type": "lora"},
                  "text_encoder": {"type": "lora", "learning_rate": 1e-5, "stop_at": 0.5}}})


def sources(pictures: int) -> Sources:
    return Sources(BASE, tuple(Picture(f"{i:064}", "a photo of sks dog") for i in range(pictures)))


@pytest.mark.parametrize(("pictures", "train", "steps", "an_epoch"), [
    (5, {}, 800, 5), (5, {"steps": 7}, 7, 5), (5, {"epochs": 3}, 15, 5), (5, {"epochs": 3, "batch_size": 5}, 3, 1),
    (5, {"epochs": 3, "batch_size": 2}, 8, 2.5), (5, {"epochs": 2, "batch_size": 2}, 5, 2.5),
    (5, {"epochs": 4, "batch_size": 2, "accumulation": 2}, 5, 1.25), (3, {"epochs": 1, "batch_size": 8}, 1, 0.375)])
def test_how_long_it_goes(pictures: int, train: dict[str, object], steps: int, an_epoch: float) -> None:
    found = training_length(recipe(**train), sources(pictures))
    assert (found.steps, found.steps_per_epoch) == (steps, an_epoch)


SHAPED = Sources(BASE, tuple(
    Picture(f"{i:064}", "sks dog", size=size, repeats=repeats) for i, (size, repeats) in enumerate(
        [((60, 40), 1), ((60, 40), 2), ((40, 60), 1), ((50, 50), 1), ((50, 51), 1)])))
"""Three wide ones (one of them twice), a tall one, two square ones."""


@pytest.mark.parametrize(("train", "steps", "an_epoch"), [
    ({"batch_size": 2, "epochs": 3}, 12, 4), ({"batch_size": 2, "accumulation": 3, "epochs": 3}, 4, 4 / 3),
    ({"batch_size": 8, "epochs": 3}, 9, 3)])
def test_each_shape_ends_a_micro_batch_of_its_own(train: dict[str, object], steps: int, an_epoch: float) -> None:
    """And so the loop counts: after as many micro-batches each picture was shown as often as it is repeated."""
    asked = recipe(**train)
    shaped = asked.model_copy(update={"images": Images(resolution=64, buckets=Buckets(step=8))})
    found = training_length(shaped, SHAPED)
    assert (found.pictures, found.steps, found.steps_per_epoch) == (6, steps, an_epoch)
    shapes = ("wide", "wide", "wide", "tall", "square", "square")
    epoch, micro = Epoch(0, "instance", (0, 1, 1, 2, 3, 4), shapes), round(an_epoch * asked.train.accumulation)
    seen = [picture for number in range(micro)
            for _, picture in micro_batch(epoch, asked.train.batch_size, number)]
    assert sorted(seen) == [0, 1, 1, 2, 3, 4]


def test_the_plan_says_how_many_micro_batches_shapes_make() -> None:
    shaped = recipe(epochs=3, batch_size=2).model_copy(
        update={"images": Images(resolution=64, buckets=Buckets(step=8))})
    assert describe_length(shaped, SHAPED) == ("6 pictures in 3 shapes = 4 micro-batches of at most 2 = "
                                               "4 steps an epoch; 3 epochs = 12 steps")
    unknown = shaped.model_copy(update={"images": Images(resolution=64, buckets=Buckets())})
    with pytest.raises(RecipeError, match="a base that is not here yet"):
        training_length(unknown, SHAPED)


def test_equal_lengths_are_equal_questions_to_train_and_export() -> None:
    """Epochs are gone before anything is keyed or written: also a share of a stop is counted in the same steps."""
    steps, epochs, other = recipe(steps=10), recipe(epochs=2), recipe(epochs=4)
    for stage in (Train(), Export()):
        assert stage.params(steps, sources(5)) == stage.params(epochs, sources(5)) != stage.params(other, sources(5))
    assert Train().params(epochs, sources(5)).stops == {"text_encoder": 5}


def test_every_rate_is_scaled_as_by_hand() -> None:
    scaled, by_hand = recipe(scale_lr=True, learning_rate=1e-4, batch_size=2, accumulation=3), recipe(
        learning_rate=1e-4 * 6, batch_size=2, accumulation=3)
    params = Train().params(scaled, sources(5))
    assert params.learning_rate == Train().params(by_hand, sources(5)).learning_rate
    assert params.learning_rates == {"text_encoder": 1e-5 * 6}


def test_the_plan_says_the_arithmetic() -> None:
    assert describe_length(recipe(epochs=3, batch_size=2), sources(5)) == (
        "5 pictures ÷ 2 a batch = 2.5 steps an epoch; 3 epochs = 8 steps")
    assert describe_length(recipe(steps=300, batch_size=5, scale_lr=True, learning_rate=2e-3), sources(5)) == (
        "5 pictures ÷ 5 a batch = 1 step an epoch; 300 steps = 300 epochs; "
        "learning rate 0.002 × 1 × 5 = 0.01")
    assert describe_length(recipe(epochs=1, batch_size=5), sources(5)).endswith("; 1 epoch = 1 step")
    assert describe_length(recipe(steps=1, batch_size=5), sources(5)).endswith("; 1 step = 1 epoch")
    shared = recipe(steps=10, batch_size=1, accumulation=4).model_copy(update={"launch": Launch(processes=2)})
    text = describe_length(shared, sources(5))
    assert text.startswith("5 pictures ÷ (1 × 4 accumulated) = 1.25 steps an epoch; 10 steps = ")
    assert text.endswith("; 2 processes, each with 2 micro-batches a step")


def test_what_changes_the_numbers_is_in_the_params_and_what_does_not_is_not() -> None:
    plain = Train().params(recipe(steps=5), sources(5))
    assert Train().params(recipe(steps=5, tf32=True), sources(5)) != plain
    assert Train().params(recipe(steps=5, ema={"decay": 0.9}), sources(5)).ema == Ema(decay=0.9)
    assert Train().params(recipe(steps=5, gradient_checkpointing=True), sources(5)) == plain


def test_what_is_held_out_is_not_counted_and_is_told() -> None:
    held = recipe(epochs=2, held_out={"share": 0.2, "every": 1})
    assert (training_length(held, sources(10)).steps, training_length(held, sources(10)).held_out) == (16, 2)
    assert describe_length(held, sources(10)) == "2 pictures held out; 8 pictures ÷ 1 a batch = 8 steps an epoch; " \
                                      "2 epochs = 16 steps"


def test_large_numbers_are_written_out() -> None:
    said = describe_length(recipe(steps=30_000), sources(10_000))
    assert said.startswith("10000 pictures ÷ 1 a batch = 10000 steps an epoch; 30000 steps = 3 epochs")
    assert "= 1 step an epoch; 12345 steps = 12345 epochs" in describe_length(recipe(steps=12_345), sources(1))
