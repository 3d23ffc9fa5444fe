"""What a recipe points at fits the recipe, or the recipe's line is named."""

import json

import pytest
from fake_base import fake_base, fake_cache
from PIL import Image
from wrong_recipes import CHANGED, GOOD

from dbrun.errors import RecipeError
from dbrun.recipe.load import load_recipe, load_with_problems
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.resolve import sources
from dbrun.resolve.sources import pin_revision, resolve_sources
from dbrun.store.store import Store

COMMIT = "c" * 40
RECIPE = """\
schema: dbrun/v1
name: x
base: {path: base}
subject:
  images: photos
  instance_prompt: a photo of sks dog
images: {resolution: 64}
adapt: {denoiser: {type: lora}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    home = tmp_path / "home"
    fake_base(home / "base")
    (home / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(home / "photos" / "0.png")
    (home / "r.yaml").write_text(RECIPE)
    return home / "r.yaml"


def find(recipe, *overrides):
    return resolve_sources(load_recipe(recipe, overrides), Store(recipe.parent / "store"))


def test_paths_are_meant_from_where_they_are_written(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find(recipe)
    assert found.sources.base.folder == recipe.parent / "base"
    assert list(found.files.values()) == [recipe.parent / "photos" / "0.png"]
    assert find(recipe, "subject.images=home/photos").files == found.files
    with pytest.raises(RecipeError, match="no such folder"):
        find(recipe, "subject.images=photos")


def test_an_error_names_the_line_of_the_recipe(recipe):
    recipe.write_text(RECIPE.replace("images: photos", "images: fotos"))
    with pytest.raises(RecipeError) as caught:
        find(recipe)
    assert "r.yaml:5:" in str(caught.value) and "photos" in str(caught.value)
    recipe.write_text(RECIPE.replace("path: base", "path: ./bass"))
    with pytest.raises(RecipeError, match=r"r\.yaml:3:"):
        find(recipe)


def test_the_resolution_must_suit_the_base(recipe):
    with pytest.raises(RecipeError, match="multiples of 16") as caught:
        find(recipe, "images.resolution=50")
    assert "write 48 or 64" in str(caught.value)
    with pytest.raises(RecipeError, match="write 16"):
        find(recipe, "images.resolution=8")
    find(recipe, "images.resolution=48")


def test_the_objective_must_suit_the_base(recipe):
    """What a recipe leaves to the base is judged by the base's scheduler."""
    config = recipe.parent / "base" / "scheduler" / "scheduler_config.json"

    def refused(override, **scheduler):
        config.write_text(json.dumps({"_class_name": "DDIMScheduler", **scheduler}))
        with pytest.raises(RecipeError) as caught:
            find(recipe, *override.split("; "))
        return str(caught.value)

    assert "objective.zero_terminal_snr: found zero" in refused("objective.zero_terminal_snr=true")
    assert "→ write `high: 500`" in refused("objective.timesteps={type: window, low: 3, high: 900}",
                                            num_train_timesteps=500)
    assert "objective.prediction" in refused("objective.prediction=epsilon", prediction_type="v_prediction",
                                             rescale_betas_zero_snr=True)
    assert "divides by the SNR" in refused("objective.weighting={type: debiased}", rescale_betas_zero_snr=True)
    config.write_text(json.dumps({"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}))
    find(recipe, "objective.zero_terminal_snr=true", "objective.weighting={type: min_snr}",
         "objective.timesteps={type: window, low: 3, high: 1000}")


def test_a_base_of_another_process_is_told_before_anything_starts(recipe):
    """Its scheduler's class is in model_index.json and in the scheduler's own config, and both count."""
    config = recipe.parent / "base" / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(RecipeError, match=r"r\.yaml:3:14 base.path: .*FlowMatchEulerDiscreteScheduler"):
        find(recipe)


@pytest.mark.parametrize(("change", "words"), [({"in_channels": 9}, "takes 9 channels"),
                                               ({"time_cond_proj_dim": 256}, "distilled")])
def test_a_base_that_training_here_would_spoil_is_told_before_anything_starts(recipe, change, words):
    """An inpainting base, and one that takes the guidance scale as an input."""
    config = recipe.parent / "base" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(RecipeError, match=words):
        find(recipe)


def test_an_unknown_base_is_judged_once_it_is_there(recipe):
    find(recipe, "base.path=owner/name", "objective.zero_terminal_snr=true")


def test_an_interval_beyond_the_end_is_told(recipe):
    notes = find(recipe, "train.steps=2", "train.checkpoint_every=900", "samples.every=50").notes
    assert "`samples.every`: found 50, but training has only 2 steps" in notes[1].text
    assert "found 900, but training has only 2 steps" in notes[2].text


def test_steps_of_epochs_are_compared_with_the_settings_too(recipe):
    with pytest.raises(RecipeError, match=r"train\.schedule\.warmup_steps: found 500, but training has only"):
        find(recipe, "train.steps=null", "train.epochs=2", "train.schedule={type: constant, warmup_steps: 500}")


def test_a_prompt_with_too_many_words_is_told(recipe):
    assert {note.stage for note in find(recipe).notes} == {"pictures", "training"}
    notes = find(recipe, "subject.instance_prompt=" + "dog " * 9).notes
    assert notes[0].level == "warning" and "reads 8 tokens" in notes[0].text


def about_prompts(recipe, *overrides):
    """What is told of prompts, each time as a warning."""
    notes = [note for note in find(recipe, *overrides).notes if note.stage == "prompts"]
    assert {note.level for note in notes} <= {"warning"}
    return [note.text for note in notes]


def test_a_prompt_with_too_many_tokens_is_told_with_what_is_cut(recipe):
    """Letters are tokens of this tokenizer: `dog dog` is six of the eight that the base reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("dogcat")}, unk_token="t"))
    letters.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Whitespace(), pre_tokenizers.Split("", "isolated")])
    letters.enable_truncation(3)
    letters.save(str(recipe.parent / "base" / "tokenizer" / "tokenizer.json"))
    assert not about_prompts(recipe, "subject.instance_prompt=dog dog do")
    assert about_prompts(recipe, "subject.instance_prompt=dog  dog cat dog") == [
        "`subject.instance_prompt`: the base reads 8 tokens, 'dog  dog cat dog' has 12, and 't dog' is cut off"]
    assert [told.partition(":")[0] for told in about_prompts(
        recipe, "prior={count: 1}", "subject.class_prompt=cat cat cat", "samples.prompts=[dog dog dog]",
        "subject.instance_prompt=cat")] == ["`subject.class_prompt`", "`samples.prompts`"]
    (recipe.parent / "photos" / "0.txt").write_text("a cat and a dog")
    assert about_prompts(recipe)[0].startswith("caption of 0.png: the base reads 8 tokens, 'a cat and a dog' has ")
    (recipe.parent / "photos" / "0.txt").unlink()
    (told,) = about_prompts(recipe, f"subject.instance_prompt={'dog ' * 99}cat")
    assert told == (f"`subject.instance_prompt`: the base reads 8 tokens, '{('dog ' * 12)}d…' has 300, and "
                    f"'g {('dog ' * 11)}dog…' is cut off")
    word = "adapt={trigger: {type: embedding, token: <dog>, initializer: dog, vectors: 7}}"
    (told,) = about_prompts(recipe, word, "subject.instance_prompt=a <dog> at")
    assert "'a <dog> at' has 10, and 'at' is cut off" in told
    assert not about_prompts(recipe, word, "subject.instance_prompt=<dog>")


def test_locating_makes_no_store(recipe):
    find(recipe)
    assert not (recipe.parent / "store").exists()


def test_a_hub_base_is_not_judged_before_it_is_fetched(recipe, monkeypatch):
    found = find(recipe, "base.path=owner/name", "images.resolution=50")
    assert found.unpinned_revision == "main" and found.sources.base.folder is None and found.unavailable_reason is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find(recipe, "base.path=owner/name").unavailable_reason


def test_a_branch_is_pinned_once_and_remembered(recipe, tmp_path, monkeypatch):
    from dbrun.stages.support import download

    asked = []
    monkeypatch.setattr(download, "resolve_commit", lambda repo, revision: asked.append((repo, revision)) or COMMIT)
    store = Store(recipe.parent / "store")
    store.prepare()
    loaded = load_recipe(recipe, ["base.path=owner/name", "base.revision=v1"])
    found = pin_revision(loaded, resolve_sources(loaded, store), store)
    assert asked == [("owner/name", "v1")]
    assert found.sources.base.identity == f"hub:owner/name@{COMMIT}" and found.unpinned_revision is None
    assert COMMIT in found.notes[0].text
    again = resolve_sources(loaded, Store(store.root))
    assert again.unpinned_revision is None and again.sources.base == found.sources.base
    folder = fake_cache(tmp_path / "hub", COMMIT)
    assert resolve_sources(loaded, Store(store.root)).sources.base.folder == folder


def test_what_is_out_of_reach_is_not_asked_for(recipe, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = load_recipe(recipe, ["base.path=owner/name"])
    store = Store(recipe.parent / "store")
    found = resolve_sources(loaded, store)
    assert pin_revision(loaded, found, store) is found


def test_a_manifest_of_the_base_sets_the_sampler(recipe):
    (recipe.parent / "base" / "manifest.json").write_text(json.dumps({"sampling": {"steps": 9, "guidance": 3.5}}))
    assert find(recipe).sources.base.sampling.steps == 9
    assert sources.ResolvedSources(find(recipe).sources).files == {}


PRIOR = ("subject.class_prompt=a photo of a dog", "prior={images: others}")


@pytest.fixture
def with_class(recipe):
    """A recipe with two class images of its own, one of which has a prompt of its own."""
    folder = recipe.parent / "others"
    folder.mkdir()
    for name, colours in (("a", ("red", "blue")), ("b", ("green", "white"))):
        half = Image.new("RGB", (40, 30), colours[0])
        half.paste(colours[1], (0, 0, 20, 30))
        half.save(folder / f"{name}.png")
    (folder / "b.txt").write_text("a dog in the snow")
    recipe.write_text(RECIPE + "prior: {images: others}\n")
    return recipe


def test_class_pictures_are_found_beside_the_recipe_with_their_prompts(with_class, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find(with_class, PRIOR[0])
    assert sorted(p.prompt for p in found.sources.class_pictures) == ["a dog in the snow", "a photo of a dog"]
    assert {p.digest for p in (*found.sources.pictures, *found.sources.class_pictures)} == set(found.files)
    assert find(with_class, PRIOR[0], "prior.images=home/others").sources == found.sources
    assert find(with_class, "prior=null").sources.class_pictures == ()


def test_an_error_about_class_pictures_names_their_line_and_key(with_class):
    with_class.write_text(RECIPE + "prior: {images: nobody}\n")
    with pytest.raises(RecipeError, match=r"r\.yaml:9:17 prior\.images: no such folder.*(?s:.)*as `prior\.images`"):
        find(with_class, PRIOR[0])


def test_a_class_picture_that_shows_nothing_is_named_though_a_subjects_may(with_class):
    for name, colour in (("night", "black"), ("wall", (90, 90, 92))):
        Image.new("RGB", (40, 30), colour).save(with_class.parent / "others" / f"{name}.png")
    for _ in range(2):
        with pytest.raises(RecipeError) as caught:
            find(with_class, PRIOR[0])
        said = str(caught.value)
        assert "night.png: the picture is black" in said and "wall.png: the picture is of one colour" in said
        assert "a.png" not in said and "0.png" not in said


def test_a_picture_of_the_subject_is_no_class_picture(with_class):
    copied = with_class.parent / "photos" / "mine.png"
    copied.write_bytes((with_class.parent / "others" / "a.png").read_bytes())
    with pytest.raises(RecipeError, match=r"prior\.images: a\.png is also a picture of the subject"):
        find(with_class, PRIOR[0])


def test_few_class_pictures_are_told(with_class):
    assert not any("only" in note.text for note in find(with_class, PRIOR[0]).notes)
    for number in range(1, 3):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(with_class.parent / "photos" / f"{number}.png")
    told = [note.text for note in find(with_class, PRIOR[0]).notes if note.stage == "class pictures"]
    assert any("only 2 for 3 pictures of the subject" in text for text in told)


SECOND = """\
subjects:
  - {images: photos, instance_prompt: a photo of sks dog, class_prompt: a photo of a dog}
  - {images: cars, instance_prompt: a photo of zwx car, class_prompt: a photo of a car, class_images: others}
prior: {count: 3}
"""


@pytest.fixture
def two_subjects(with_class):
    """A dog, and a car with class images of its own."""
    (with_class.parent / "cars").mkdir()
    Image.new("RGB", (40, 30), "yellow").save(with_class.parent / "cars" / "0.png")
    head, _, rest = RECIPE.partition("subject:\n")
    with_class.write_text(head + SECOND + rest[rest.index("images: {resolution"):])
    return with_class


def test_several_subjects_are_found_each_with_its_prompt_and_class(two_subjects):
    found = find(two_subjects).sources
    prompts = [[p.prompt for p in own] for own in found.pictures_by_subject]
    assert prompts == [["a photo of sks dog"], ["a photo of zwx car"]]
    assert sorted(found.pictures, key=str) == sorted((p for own in found.pictures_by_subject for p in own), key=str)
    assert [p.digest for p in found.pictures] == sorted(p.digest for p in found.pictures)
    assert sorted(p.prompt for p in found.class_pictures) == ["a dog in the snow", "a photo of a car"]


def test_an_error_names_the_subject(two_subjects):
    two_subjects.write_text(two_subjects.read_text().replace("images: cars", "images: carts"))
    with pytest.raises(RecipeError, match=r"r\.yaml:6:14 subjects\.1\.images: no such folder"):
        find(two_subjects)


def test_a_picture_of_another_subject_is_no_class_picture(two_subjects):
    (two_subjects.parent / "photos" / "mine.png").write_bytes((two_subjects.parent / "others" / "a.png").read_bytes())
    with pytest.raises(RecipeError, match=r"subjects\.1\.class_images: a\.png is also a picture of the subject"):
        find(two_subjects)


def test_captions_are_worded_and_varied(recipe):
    (recipe.parent / "photos" / "0.txt").write_text("a, b, c, d")
    words = ("subject.trigger=sks", "subject.captions={template: '{trigger}: {caption}', dropout: 0.1, "
             "shuffle: {variants: 4}, type: sidecar}")
    (one,) = find(recipe, *words).sources.pictures
    assert one.prompt == "sks: a, b, c, d" and one.dropout == 0.1 and len(set(one.variants) - {one.prompt}) == 3
    assert all(text.startswith("sks: a, ") for text in one.variants)
    assert find(recipe, *words, "seed=1").sources.pictures[0].variants != one.variants
    assert find(recipe).sources.pictures[0].variants == ()


def test_a_shuffle_that_changes_nothing_is_told(recipe):
    for caption, told in (("a dog on grass", True), ("a, b", True), ("a, b, c", False)):
        (recipe.parent / "photos" / "0.txt").write_text(caption)
        notes = [n.text for n in find(recipe, "subject.captions={type: sidecar, shuffle: {}}").notes]
        assert any("`subject.captions.shuffle` changes nothing" in text for text in notes) is told


def test_a_picture_without_any_prompt_is_named(recipe):
    bare = ("subject.instance_prompt=null", "subject.captions={type: sidecar}")
    with pytest.raises(RecipeError, match=r"r\.yaml:5:(?s:.*)0\.png has no prompt: there is no 0\.txt beside it"):
        find(recipe, *bare)
    (recipe.parent / "photos" / "0.txt").write_text("a dog")
    assert find(recipe, *bare).sources.pictures[0].prompt == "a dog"
    for number in range(1, 4):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(recipe.parent / "photos" / f"{number}.png")
    with pytest.raises(RecipeError, match=r"1\.png and 2 more pictures have no prompt"):
        find(recipe, *bare)


def test_prompts_without_the_trigger_are_told(recipe):
    assert not about_prompts(recipe, "subject.trigger=sks dog")
    (recipe.parent / "photos" / "0.txt").write_text("a dog")
    (told,) = about_prompts(recipe, "subject.trigger=sks dog")
    assert "'sks dog' is missing from the prompt of 1 of 1 pictures" in told


@pytest.mark.parametrize(("override", "key"), [
    ("train.learning_rate=5", "train.learning_rate"), ("train.learning_rate=1e-9", "train.learning_rate"),
    ("adapt.denoiser.learning_rate=3", "adapt.denoiser.learning_rate")])
def test_an_unusual_learning_rate_is_a_warning_that_names_its_key(recipe, override, key):
    (told,) = [note for note in find(recipe, override).notes if "usual range" in note.text]
    assert told.level == "warning" and told.text.startswith(f"`{key}`: ")
    assert not [note for note in find(recipe, "train.learning_rate=1e-2").notes if "usual range" in note.text]


def test_what_is_wrong_with_base_pictures_and_words_is_told_at_once(recipe):
    words = ["base.path=./gone", "subject.images=nowhere", "subject.class_prompt=a dog", "prior={images: nothing}",
             "train={epochs: 2, steps: 4}"]
    loaded, wrong = load_with_problems(recipe, words)
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(loaded, Store(recipe.parent / "store"), wrong=wrong)
    assert [problem.key for problem in caught.value.problems] == [
        "train.epochs", "base.path", "subject.images", "prior.images"]
    assert all(problem.span and problem.span.file is None for problem in caught.value.problems)
    with pytest.raises(InvalidRecipe) as caught:
        find(recipe, "images.resolution=50", "train={held_out: {share: 0.5, every: 1}}")
    assert [problem.key for problem in caught.value.problems] == ["images.resolution", "train.held_out"]


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_a_recipe_that_contradicts_itself_can_still_be_looked_at(name, tmp_path, monkeypatch):
    """Whatever is known to be wrong with it is told, and never an error of another kind."""
    monkeypatch.chdir(tmp_path)
    old, new = CHANGED[name]
    (tmp_path / "r.yaml").write_text(GOOD.replace(old, new, 1))
    try:
        loaded, wrong = load_with_problems(tmp_path / "r.yaml")
    except InvalidRecipe:
        return
    assert wrong
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(loaded, Store(tmp_path / "store"), wrong=wrong)
    assert caught.value.problems[:len(wrong)] == wrong


def test_a_misspelt_key_does_not_hide_what_the_base_and_the_pictures_have_against_the_rest(recipe):
    loaded, wrong = load_with_problems(recipe, ["train.stepz=3", "train.batch_size=many", "images.resolution=50",
                                                "subject.images=nowhere"])
    with pytest.raises(InvalidRecipe) as caught:
        resolve_sources(loaded, Store(recipe.parent / "store"), wrong=wrong)
    assert [problem.key for problem in caught.value.problems] == [
        "train.batch_size", "train.stepz", "images.resolution", "subject.images"]
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(recipe, ["train.stepz=3"])
    assert [problem.key for problem in caught.value.problems] == ["train.stepz"]
    with pytest.raises(InvalidRecipe) as caught:
        load_with_problems(recipe, ["base=3"])
    assert [problem.key for problem in caught.value.problems] == ["base"], "without it there is nothing to look at"
    recipe.write_text(RECIPE.replace("instance_prompt", "instance_promt"))
    with pytest.raises(InvalidRecipe) as caught:
        load_with_problems(recipe, ["subject.images=nowhere"])
    assert [problem.key for problem in caught.value.problems] == ["subject.instance_promt"], "no picture has one now"
