"""Is what cannot work across keys refused before anything runs, with the way out?"""

import pytest

from dbrun.recipe.checks.exports import export_formats
from dbrun.recipe.text.spans import InvalidRecipe

BOTH = "adapt: {denoiser: {type: lora}, text_encoder: {type: lora, stop_at: STOP}}\n"


def stopping(good: str, stop: str) -> str:
    head, _, rest = good.partition("adapt:\n")
    return head + BOTH.replace("STOP", stop) + rest.partition("\n")[2]


@pytest.mark.parametrize(("stop", "words"), [
    ("300", "found step 300, allowed with `train.steps: 300`: from 1 to 299"),
    ("900", "found step 900"), ("0.001", "found step 0"), ("0.9999", "found step 300"),
    ("1.5", "whole steps such as 300, or a share of them such as 0.5"), ("0", "above 0"),
    ("-3", "above 0"), ("soon", "a number")])
def test_a_stop_must_lie_within_the_steps(load, good, stop: str, words: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(stopping(good, stop))
    assert words in str(caught.value) and "adapt.text_encoder.stop_at" in str(caught.value)


@pytest.mark.parametrize(("stop", "step"), [("1", 1), ("299", 299), ("0.5", 150), ("1e2", 100), ("null", None)])
def test_a_stop_is_steps_or_a_share_of_them(load, good, stop: str, step: int | None) -> None:
    recipe = load(stopping(good, stop)).recipe
    assert recipe.adapt.text_encoder.stop_step(recipe.train.steps) == step


def test_something_must_learn_to_the_end(load, good) -> None:
    for text in (good, stopping(good, "0.9")):
        with pytest.raises(InvalidRecipe, match=r"nothing else learns after step") as caught:
            load(text, "adapt.denoiser.stop_at=0.5")
        assert "`train.steps` sets how long" in str(caught.value)
    assert load(stopping(good, "null"), "adapt.denoiser.stop_at=0.5").recipe.adapt.denoiser.stop_step(300) == 150


def test_what_learns_in_place_is_exported_as_the_component_itself(load, good) -> None:
    text = good.replace("denoiser: {type: lora, rank: 16, targets: all}", "denoiser: {type: full}")
    assert text != good
    for name in ("diffusers", "peft", "kohya"):
        with pytest.raises(InvalidRecipe, match=r"is of type full|is: full") as caught:
            load(text, f"export=[{name}]")
        assert "write `export: [component]`" in str(caught.value)
    both = text.replace("{type: full}", "{type: full}\n  text_encoder: {type: lora}")
    assert [export_formats(load(t, "export=null").recipe) for t in (text, both)] == [("component",)] * 2
    assert export_formats(load(good, "export=null").recipe) == ("diffusers", "peft", "kohya")
    assert export_formats(load(good, "export=[component]").recipe) == ("component",)
    with pytest.raises(InvalidRecipe, match="starts from the base's own weights"):
        load(text, "export=null", "adapt.denoiser.init=somewhere")


def test_offload_is_refused_where_nothing_would_move(load, good) -> None:
    for words, said in ((("device=cpu",), "with `device: cpu` nothing would move"),
                        (("base.quantise=nf4",), "keeps the scales of its weights apart"),
                        (("adapt.denoiser={type: full}", "export=null"), "trains the blocks' own weights")):
        with pytest.raises(InvalidRecipe) as caught:
            load(good, "base.offload=blocks", *words)
        assert said in str(caught.value) and "base.offload" in str(caught.value)
    assert load(good, "base.offload=blocks", "device=cuda").recipe.base.offload == "blocks"


def test_prodigys_rate_must_be_everyones(load, good) -> None:
    words = ("train.optimizer={type: prodigy}", "train.learning_rate=1.0")
    with pytest.raises(InvalidRecipe, match="it estimates one rate for all that learns") as caught:
        load(good, *words, "adapt.denoiser.learning_rate=0.5")
    assert "adapt.denoiser.learning_rate" in str(caught.value)
    load(good, *words, "adapt.denoiser.learning_rate=1.0")
    load(good, "adapt.denoiser.learning_rate=0.5")


def test_steps_and_epochs_are_one_choice(load, good) -> None:
    with pytest.raises(InvalidRecipe, match=r"train\.epochs: found 20, but `train.steps: 300` already sets the length"):
        load(good, "train.epochs=20")
    assert load(good, "train.epochs=20", "train.steps=null").recipe.train.epochs == 20


@pytest.mark.parametrize(("words", "told"), [
    (("train.ema={}", "train.optimizer={type: adamw_schedule_free}"), "already averages"),
    (("train.tf32=true", "device=cpu"), "`device: cpu` has no TF32")])
def test_what_does_not_go_together_in_training_is_refused(load, good, words, told: str) -> None:
    with pytest.raises(InvalidRecipe, match=told):
        load(good, *words)
    assert load(good, words[0]).recipe.train


def test_a_look_must_come_before_the_end(load, good) -> None:
    with pytest.raises(InvalidRecipe, match=r"train\.held_out\.every: found 400, but training has only 300 steps"):
        load(good, "train.held_out={every: 400}")
    with pytest.raises(InvalidRecipe, match=r"train\.candidates\.every: found 400, but training has only 300 steps"):
        load(good, "train.candidates={every: 400}")
    assert load(good, "train.held_out={}").recipe.train.held_out.every == 50


def test_what_is_taken_away_is_told_once(load, good) -> None:
    """Nothing is said of what would only follow from it."""
    for word, keys in (("subject=null", ["subject"]), ("adapt.denoiser=null", ["adapt"])):
        with pytest.raises(InvalidRecipe) as caught:
            load(good, word)
        assert [problem.key for problem in caught.value.problems] == keys
