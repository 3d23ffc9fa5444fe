"""Does a recipe say one subject or several, each with words that fit together?"""

import pytest

from dbrun.recipe.text.spans import InvalidRecipe

TWO = """\
schema: dbrun/v1
name: both
base: {path: embedded}
subjects:
  - {images: a, instance_prompt: a photo of sks dog, class_prompt: a photo of a dog}
  - {images: b, instance_prompt: a photo of zwx car, class_prompt: [a photo of a car, a car in a room]}
prior: {count: 4}
adapt: {denoiser: {type: lora}}
"""
CAPTIONS = "images: embedded:sks_dog, captions: {type: sidecar, template: 'a {trigger}, {caption}'}"


def refused(load, text: str, *overrides: str) -> str:
    with pytest.raises(InvalidRecipe) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_one_subject_or_several(load, good) -> None:
    assert list(load(good).recipe.subjects_by_key) == ["subject"]
    recipe = load(TWO).recipe
    assert {key: one.images for key, one in recipe.subjects_by_key.items()} == {"subjects.0": "a", "subjects.1": "b"}
    assert recipe.generated_class_prompts == (("a photo of a car", "a car in a room"), "a photo of a dog")
    loaded = load(good, "subject=null", "subjects=[{images: a, instance_prompt: sks, class_prompt: x}]")
    assert loaded.recipe.subjects_by_key


def test_subjects_of_one_class_share_its_images_in_any_order(load) -> None:
    same = TWO.replace("[a photo of a car, a car in a room]", "a photo of a dog")
    assert load(same).recipe.generated_class_prompts == ("a photo of a dog",)
    head, first, second, rest = TWO.split("  - ")[0], *TWO.split("  - ")[1:], ""
    second, _, rest = second.partition("prior")
    turned = f"{head}  - {second}  - {first}prior{rest}"
    assert next(iter(load(turned).recipe.subjects_by_key.values())).images == "b"
    assert load(turned).recipe.generated_class_prompts == load(TWO).recipe.generated_class_prompts


@pytest.mark.parametrize(("key", "found"), [
    ("subject.instance_prompt", r'"a \x1b dog"'), ("subject.class_prompt", r'"a \x1b dog"'),
    ("subject.trigger", r'"a \x1b dog"'), ("samples.prompts", r'["a \x1b dog"]'),
    ("subject.captions", r'{type: sidecar, template: "{caption} \x1b"}')])
def test_a_prompt_holds_no_control_characters(load, good, key, found) -> None:
    assert "without the character U+001B" in refused(load, good, f"{key}={found}")


def test_a_prompt_holds_joiners_and_new_emoji_but_nothing_that_reorders_it(load, good) -> None:
    prompt = "می\u200cدود 👨\u200d👩 soft\u00adhyphen \U0001fae9"
    assert load(good, f"subject.instance_prompt={prompt}").recipe.subject.instance_prompt == prompt
    said = refused(load, good, r'subject.instance_prompt="a \u202e dog"')
    assert "without the character U+202E (number 3)" in said


@pytest.mark.parametrize("key", ["subject.images", "subject.class_images", "prior.images", "base.path",
                                 "adapt.denoiser.init", "base.revision", "base.variant"])
def test_an_empty_path_does_not_mean_the_folder_of_the_recipe(load, good, key) -> None:
    for value in ('""', '"  "'):
        assert f"{key}: found" in refused(load, good, f"{key}={value}")
    assert load(good, "subject.images=.").recipe.subject.images == "."


def test_neither_and_both_are_refused(load, good) -> None:
    assert "subject: missing" in refused(load, good, "subject=null")
    assert "found beside `subject`" in refused(load, good, "subjects=[{images: a, instance_prompt: x}]")
    assert "subjects: found an empty list" in refused(load, good, "subject=null", "subjects=[]")


def test_each_subject_is_judged_where_it_stands(load) -> None:
    said = refused(load, TWO.replace("class_prompt: a photo of a dog", "clas_prompt: x"))
    assert "r.yaml:5:54 subjects.0.clas_prompt: unknown key; did you mean 'class_prompt'?" in said
    said = refused(load, TWO.replace(", class_prompt: a photo of a dog", ""))
    assert "r.yaml:5:" in said and "subjects.0.class_prompt: missing" in said
    said = refused(load, TWO, "prior.count=1")
    assert "`subjects.1.class_prompt` has 2 prompts" in said
    said = refused(load, TWO, "prior=null")
    assert said.count("found a class prompt, but no `prior`") == 2
    said = refused(load, TWO.replace("class_prompt: a photo of a dog", "class_prompt: a photo of zwx car"))
    assert "subjects.0.class_prompt: found the instance prompt" in said


def test_a_prompt_is_needed_unless_captions_are_said_to_be_there(load, good) -> None:
    bare = good.replace("  instance_prompt: a photo of sks dog\n", "")
    assert "subject.instance_prompt: missing" in refused(load, bare)
    assert "subject.instance_prompt: missing" in refused(load, bare, "subject.captions={type: prompt}")
    for kind in ("sidecar", "metadata", "filename"):
        assert load(bare, f"subject.captions={{type: {kind}}}").recipe.subject.instance_prompt is None


def test_a_template_with_a_trigger_needs_one(load, good) -> None:
    text = good.replace("images: embedded:sks_dog", CAPTIONS.replace(", captions", "\n  captions", 1))
    assert "no `subject.trigger` to replace it" in refused(load, text)
    assert load(text, "subject.trigger=sks dog").recipe.subject.caption_source.needs_trigger


def test_class_images_stand_where_there_are_several_classes(load, good) -> None:
    assert "several subjects" in refused(load, TWO, "prior={images: x}")
    mixed = TWO.replace("class_prompt: a photo of a dog}", "class_prompt: a photo of a dog, class_images: x}")
    assert load(mixed).recipe.generated_class_prompts == (("a photo of a car", "a car in a room"),)
    assert "found a list" in refused(load, TWO.replace("room]}", "room], class_images: x}"))
    own = good.replace("{count: 4}", "{weight: 1.0}")
    assert load(own, "subject.class_images=x").recipe.generated_class_prompts == ()
    assert "found beside `prior.images`" in refused(load, own, "subject.class_images=x", "prior.images=y")
    assert "found beside `prior.target`" in refused(load, own, "subject.class_images=x", "prior.target=base")
    assert "`class_images` names your own" in refused(load, good, "subject.class_images=x")
    assert "found class images, but no `prior`" in refused(
        load, good, "subject.class_images=x", "prior=null", "subject.class_prompt=null")
