"""Do profiles and declared environment variables mean what they say, and is every mistake in them told?"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import Golden

from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe

PROFILES = "profiles:\n  ci: {train: {steps: 3}, prior: {count: 2}}\n  big: {adapt: {denoiser: {rank: 64}}}\n"


def profiled(text: str, *profiles: str, overrides: tuple[str, ...] = ()) -> object:
    Path("r.yaml").write_text(text)
    return load_recipe(Path("r.yaml"), overrides, profiles).recipe


def told(text: str, *profiles: str) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        profiled(text, *profiles)
    return str(caught.value)


def test_a_profile_lies_over_the_recipe_only_where_it_is_asked_for(load, good) -> None:
    plain = load(good + PROFILES).recipe
    ci, both = profiled(good + PROFILES, "ci"), profiled(good + PROFILES, "ci", "big")
    assert plain == load(good).recipe
    assert (ci.train.steps, ci.prior.count, ci.train.learning_rate, ci.adapt.denoiser.rank) == (3, 2, 1e-4, 16)
    assert (both.train.steps, both.adapt.denoiser.rank) == (3, 64)


def test_the_command_line_lies_over_profiles_and_later_profiles_over_earlier(load, good) -> None:
    load(good)
    text = good + PROFILES + "  long: {train: {steps: 900}}\n"
    assert profiled(text, "long", "ci").train.steps == 3
    assert profiled(text, "ci", "long").train.steps == 900
    assert profiled(text, "ci", overrides=("train.steps=5",)).train.steps == 5


def test_profiles_are_inherited_and_added_to(load, good) -> None:
    load(good)
    Path("below.yaml").write_text(good + PROFILES)
    text = "extends: below.yaml\nprofiles: {ci: {seed: 4}}\n"
    recipe = profiled(text, "ci")
    assert (recipe.train.steps, recipe.seed) == (3, 4)


@pytest.mark.parametrize("profiles", [
    "{ci: {train: {stepz: 3}}}", "{ci: {train: {steps: x}}}", "{ci: {extends: a.yaml}}", "{ci: 3}", "[ci]",
    "{ci: {name: '${nam}'}}"])
def test_a_profile_is_checked_though_nobody_asks_for_it(load, good, golden: Golden, profiles: str) -> None:
    load(good)
    golden(profiles, told(f"{good}profiles: {profiles}\n"))


def test_mistakes_in_the_recipe_and_in_a_profile_are_told_together(load, good, golden: Golden) -> None:
    load(good)
    golden("both", told(good.replace("steps: 300", "stepz: 300") + "profiles: {ci: {seed: x}}\n"))


def test_an_unknown_profile_is_told_with_the_known_ones(load, good, golden: Golden) -> None:
    load(good)
    golden("some", told(good + PROFILES, "cii"))
    golden("none", told(good, "ci"))


def test_a_declared_variable_is_read(load, good, monkeypatch) -> None:
    monkeypatch.setenv("STEPS", "7")
    monkeypatch.setenv("DATA", "/data/#1 ${name} \\${x} it's: a")
    text = good.replace("steps: 300", "steps: '${env:STEPS}'").replace("embedded:sks_dog", "'${env: DATA }/dog'")
    recipe = load(text + "env: [STEPS, DATA]\n").recipe
    assert recipe.train.steps == 7
    assert recipe.subject.images == "/data/#1 ${name} \\${x} it's: a/dog"


def test_a_reference_to_a_value_from_the_environment_is_followed(load, good, monkeypatch) -> None:
    monkeypatch.setenv("WHO", "sks dog $5")
    text = good.replace("a photo of sks dog", "a photo of ${env:WHO}")
    recipe = load(text + "env: [WHO]\nsamples: {prompts: ['${subject.instance_prompt} at night']}\n").recipe
    assert recipe.samples.prompts == ("a photo of sks dog $5 at night",)


@pytest.mark.parametrize(("env", "value"), [
    ("", "${env:HERE}"), ("env: [THERE]", "${env:HERE}"), ("env: [GONE]", "${env:GONE}"),
    ("env: [BELL]", "${env:BELL}"), ("env: HERE", "x"), ("env: [a-b]", "x"), ("env: [HF_TOKEN]", "x"),
    ("env: [HERE]", "${env.HERE}")])
def test_what_is_wrong_with_a_variable_is_told(load, good, monkeypatch, golden: Golden, env: str, value: str) -> None:
    for name, text in (("HERE", "here"), ("BELL", "\a"), ("HF_TOKEN", "x")):
        monkeypatch.setenv(name, text)
    load(good)
    golden(f"{env or 'no env'}, name: {value}", told(good.replace("name: dog", f"name: '{value}'") + env + "\n"))


@pytest.mark.parametrize("word", ["env=[A]", "profiles.ci.seed=3", "extends=a.yaml"])
def test_what_stands_beside_a_recipe_cannot_come_from_the_command_line(load, good, golden: Golden, word: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, word)
    golden(word, str(caught.value))


@pytest.mark.parametrize(("written", "prompt"), [
    (r"'a \${b} c'", "a ${b} c"), (r'"a \\${b} c"', "a ${b} c"), ("'a #1 dog'", "a #1 dog"),
    ("'it''s: a dog'", "it's: a dog"),
    ("a {dog}", "a {dog}"), ("cost $5", "cost $5"),
])
def test_a_prompt_can_hold_any_character(load, good, written, prompt) -> None:
    assert load(good.replace("instance_prompt: a photo of sks dog", f"instance_prompt: {written}")
                ).recipe.subject.instance_prompt == prompt
