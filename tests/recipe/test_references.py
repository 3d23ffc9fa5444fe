"""Does `${key}` mean the other key's value, and nothing outside the recipe?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dbrun.recipe.text.spans import InvalidRecipe


def test_a_value_that_is_one_reference_takes_the_other_whole(load, good) -> None:
    recipe = load(good, "seed=${train.steps}", "threads=${prior.count}", "samples.prompts=['${subject.class_prompt}']",
                  "adapt.text_encoder=${adapt.denoiser}").recipe
    assert (recipe.seed, recipe.threads, recipe.samples.prompts) == (300, 4, ("a photo of a dog",))
    assert recipe.adapt.text_encoder == recipe.adapt.denoiser


def test_a_quoted_reference_inside_braces_is_still_a_number(load, good) -> None:
    assert load(good.replace("{count: 4}", '{count: "${train.steps}"}')).recipe.prior.count == 300


def test_a_list_is_taken_whole_and_an_item_alone(load, good) -> None:
    text = good.replace("export: [diffusers, peft]", "export: [peft]\nsamples: {prompts: [x, y]}")
    recipe = load(text, "name=${samples.prompts[1]}", "subject.class_prompt=${samples.prompts.0}").recipe
    assert (recipe.name, recipe.subject.class_prompt) == ("y", "x")


def test_references_inside_text_and_through_others(load, good) -> None:
    recipe = load(good, "name=${base.type}-${train.steps}", "subject.class_prompt=${subject.instance_prompt} ${seed}",
                  "seed=${train.steps}").recipe
    assert (recipe.name, recipe.subject.class_prompt) == ("sd-300", "a photo of sks dog 300")


@pytest.mark.parametrize(("written", "read"), [
    (r"a \${b} c", "a ${b} c"), (r"\${oc.env:HOME}", "${oc.env:HOME}"), ("cost $5 {x}", "cost $5 {x}"),
    ("back\\slash", "back\\slash"), (r"\\${train.steps}", "\\300"),
])
def test_the_characters_themselves_can_be_written(load, good, written, read) -> None:
    assert load(good.replace("a photo of sks dog", written)).recipe.subject.instance_prompt == read


def test_text_stays_text_and_numbers_numbers(load, good) -> None:
    text = good.replace("name: dog", "name: '12'")
    recipe = load(text, "subject.class_prompt=${name}", "seed=${train.steps}0").recipe
    assert (recipe.subject.class_prompt, recipe.seed) == ("12", 3000)
    with pytest.raises(InvalidRecipe, match='found "12" in quotes'):
        load(text, "seed=${name}")


@pytest.mark.parametrize(("value", "fragments"), [
    ("${oc.env:HF_TOKEN}", ["no resolver 'oc.env'", "references to keys of this recipe"]),
    ("${env:HOME}", ["does not declare it", "env: [HOME]"]), ("${oc.decode:5}", ["no resolver 'oc.decode'"]),
    ("${train.stps}", ["nothing is written at 'train.stps'; did you mean 'train.steps'?"]),
    ("${train.keep}", ["nothing is written at 'train.keep'"]),
    ("${train.steps", ["found '${' without its '}'"]), ("${}", ["found '${}'", "a whole dotted key"]),
    ("${.steps}", ["a whole dotted key from the top"]), ("${a b}", ["a whole dotted key"]),
    ("${train.${name}}", ["a whole dotted key"]), ("x ${train}", ["not a single value"]),
    ("${export[9]}", ["nothing is written at 'export[9]'"]), ("${name}", ["found a circle: name → name"]),
])
def test_a_reference_that_leads_nowhere_is_told(load, good, value, fragments) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, f"name={value}")
    assert str(caught.value).startswith("command line: name: ")
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize(("value", "fix"), [
    ("${train.stepss}", "write ${train.steps}"), ("${env:HOME}", "write `env: [HOME]` at the top of the recipe"),
    ("${train.keep}", "write `train.keep` too: a reference takes what is written, never a default"),
    ("${zzz}", "write \\${ for the two characters themselves, in double quotes \\\\${"),
    ("${oc.decode:5}", "write \\${ for the two characters themselves, in double quotes \\\\${"),
])
def test_the_way_out_is_that_of_what_was_meant(load, good, value, fix) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, f"name={value}")
    assert [problem.fix for problem in caught.value.problems] == [fix]


def test_a_variable_that_is_not_set_is_to_be_exported(load, good, monkeypatch) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    with pytest.raises(InvalidRecipe) as caught:
        load("env: [NOPE]\n" + good, "name=${env:NOPE}")
    assert [problem.fix for problem in caught.value.problems] == ["export NOPE=…"]


def test_a_circle_is_told_once_with_all_its_keys(load, good) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, "seed=${threads}", "threads=${train.steps}", "train.steps=${seed}")
    assert len(caught.value.problems) == 1
    assert "train.steps → seed → threads → train.steps" in str(caught.value)


def test_the_environment_never_enters_a_message(load, good, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(InvalidRecipe) as caught:
        load(good, "name=${oc.env:HF_TOKEN}")
    assert "hf_secret" not in str(caught.value)


def test_references_that_double_at_every_step_stop(load, good) -> None:
    lines = [f"k{i}: '${{k{i + 1}}}${{k{i + 1}}}'" for i in range(40)]
    with pytest.raises(InvalidRecipe, match="characters once its references are resolved"):
        load("\n".join([good, *lines, "k40: xxxx"]))


def test_omegaconf_is_loaded_for_references_only() -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "sks_dog.yaml"
    program = ("import sys; from pathlib import Path; from dbrun.recipe.load import load_recipe\n"
               f"load_recipe(Path({str(recipe)!r})); assert 'omegaconf' not in sys.modules\n"
               f"load_recipe(Path({str(recipe)!r}), ['seed=${{threads}}', 'threads=3'])\n"
               "assert 'omegaconf' in sys.modules")
    subprocess.run([sys.executable, "-c", program], check=True)
