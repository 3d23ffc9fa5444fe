"""Do files, `extends`, the command line and the schema together give the recipe that a person meant?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(("line", "read"), [
    ("learning_rate: 1e-4", 1e-4), ("learning_rate: 1E-4", 1e-4), ("learning_rate: 2.0e-3", 2e-3),
    ("learning_rate: .5", 0.5), ("learning_rate: 1", 1.0), ("learning_rate: +3.", 3.0),
    ("learning_rate: 0.0001  # usual", 1e-4),
])
def test_numbers_are_numbers(load, good, line, read) -> None:
    rate = load(good.replace("learning_rate: 1e-4", line)).recipe.train.learning_rate
    assert rate == read and type(rate) is float


@pytest.mark.parametrize(("written", "read"), [
    ("no", "no"), ("on", "on"), ("true", "true"), ("1e-4", "1e-4"), ("012", "012"), ("'null'", "null"),
    ("2024-01-01", "2024-01-01"), ("a #b", "a #b"[:1]), ("'a #b'", "a #b"), ("12:30", "12:30"), ("0x1F", "0x1F"),
])
def test_text_is_text_where_text_is_asked_for(load, good, written, read) -> None:
    prompt = load(good.replace("a photo of sks dog", written)).recipe.subject.instance_prompt
    assert prompt == read and type(prompt) is str


def test_a_revision_that_looks_like_a_number_stays_text(load, good) -> None:
    text = good.replace("path: embedded", "path: owner/name, revision: 695e0514")
    assert load(text).recipe.base.revision == "695e0514"


def test_whole_numbers_and_null(load, good) -> None:
    recipe = load(good.replace("steps: 300", "steps: 0x10\n  max_grad_norm: null"), "prior=null",
                  "subject.class_prompt=null").recipe
    assert (recipe.train.steps, recipe.train.max_grad_norm, recipe.prior) == (16, None, None)


def test_what_is_not_written_has_its_default(load, good) -> None:
    recipe = load(good).recipe
    assert (recipe.seed, recipe.device, recipe.train.accumulation) == (0, "auto", 1)
    assert recipe.train.schedule.type == "constant"


def test_a_recipe_lies_over_those_that_it_extends(load, good, tmp_path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "good.yaml").write_text(good)
    (tmp_path / "rank.yaml").write_text("adapt: {denoiser: {rank: 2, alpha: 8}}\nseed: 7\n")
    loaded = load("extends: [below/good.yaml, rank.yaml]\nname: above\nadapt: {denoiser: {rank: 3}}\nexport: [peft]\n")
    recipe = loaded.recipe
    assert (recipe.name, recipe.seed, recipe.train.steps, recipe.export) == ("above", 7, 300, ("peft",))
    assert (recipe.adapt.denoiser.rank, recipe.adapt.denoiser.alpha, recipe.adapt.denoiser.targets) == (3, 8.0, "all")
    assert [f.name for f in loaded.files] == ["r.yaml", "good.yaml", "rank.yaml"]


def test_a_part_of_another_type_replaces_the_one_below_whole(load, good, tmp_path) -> None:
    (tmp_path / "below.yaml").write_text(good.replace("steps: 300", "schedule: {type: cosine, warmup_steps: 9}"))
    same = load("extends: below.yaml\ntrain: {schedule: {type: cosine}}\n").recipe.train.schedule
    other = load("extends: below.yaml\ntrain: {schedule: {type: linear}}\n").recipe.train.schedule
    assert (same.warmup_steps, other.type, other.warmup_steps) == (9, "linear", 0)


def test_a_recipe_that_comes_with_dbrun_is_extended_by_its_name(load, good, tmp_path) -> None:
    text = "extends: sks_dog\nname: above\ntrain: {batch_size: 2}\n"
    loaded = load(text)
    assert (loaded.recipe.name, loaded.recipe.train.steps, loaded.recipe.train.batch_size) == ("above", 300, 2)
    # one of the same name beside it goes first, as on the command line
    (tmp_path / "sks_dog.yaml").write_text(good.replace("steps: 300", "steps: 9"))
    assert load(text).recipe.train.steps == 9


def test_extends_in_a_circle_is_told_with_the_circle(load, tmp_path) -> None:
    (tmp_path / "b.yaml").write_text("extends: r.yaml\n")
    with pytest.raises(InvalidRecipe, match=r"^b.yaml:1:10 extends: found a circle: r.yaml → b.yaml → r.yaml"):
        load("extends: b.yaml\n")


def test_extends_doubling_at_every_level_stops(load, tmp_path) -> None:
    for i in range(12):
        (tmp_path / f"{i}.yaml").write_text(f"extends: [{i + 1}.yaml, {i + 1}.yaml]\n")
    (tmp_path / "12.yaml").write_text("seed: 1\n")
    with pytest.raises(InvalidRecipe, match="more than 32 files"):
        load("extends: 0.yaml\n")


@pytest.mark.parametrize(("value", "fragment"), [
    ("nowhere.yaml", "r.yaml:1:10 no such recipe: nowhere.yaml"), ("[]", "found an empty list"),
    ("{a: b}", "found a mapping"), ("", "found nothing"), ("[r.yaml, [x]]", "1:19 extends: found a list"),
])
def test_extends_that_names_no_recipe(load, value, fragment) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(f"extends: {value}\n")
    assert fragment in str(caught.value)


def test_overrides_lie_over_the_file_and_the_last_one_wins(load, good) -> None:
    recipe = load(good, "train.steps=5", "train={steps: 6, batch_size: 2}", "adapt.denoiser.rank=4", "train.steps=7",
                  "export=[peft]", "name='a'").recipe
    assert (recipe.train.steps, recipe.train.batch_size, recipe.train.learning_rate) == (7, 2, 1e-4)
    assert (recipe.adapt.denoiser.rank, recipe.export, recipe.name) == (4, ("peft",), "a")


@pytest.mark.parametrize("prompt", ["a dog = a dog", "a: b", "a # b", "*star", "& co", "- dash", "!bang", "50%", "@me"])
def test_an_override_is_taken_as_it_stands(load, good, prompt) -> None:
    assert load(good, f"subject.instance_prompt={prompt}").recipe.subject.instance_prompt == prompt


@pytest.mark.parametrize(("override", "fragment"), [
    ("train.steps", "expected key=value, such as train.steps=500"), ("=5", "expected key=value"),
    ("train.steps=", "write train.steps=null to leave it out"),
    ("train..steps=5", "an empty word between dots"), ("extends=x.yaml", "is allowed only in a recipe file"),
    ("export=[peft", "expected ',' or ']'"), ("name=a\x00", "U+0000"), ("name=\udcff", "U+DCFF"),
    ("train=[1, 2]", "train: found a list"), ("export.0=peft", "export: found a mapping, allowed: a list"),
])
def test_a_wrong_override_is_told(load, good, override, fragment) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, override)
    assert fragment in str(caught.value)
    assert str(caught.value).startswith("command line: ")


def test_a_path_is_meant_from_the_file_it_is_written_in(load, good, tmp_path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "good.yaml").write_text(good)
    loaded = load("extends: below/good.yaml\nbase: {path: models/sd}\n", "name=x")
    assert loaded.folder_of("subject.images") == tmp_path / "below"
    assert loaded.folder_of("base.path") == tmp_path
    assert loaded.folder_of("device") == tmp_path
    assert load(good, "subject.images=pics").folder_of("subject.images") == Path.cwd()


def test_a_path_of_the_command_line_is_meant_from_the_current_folder(load, good, tmp_path, monkeypatch) -> None:
    load(good)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_recipe(Path("../r.yaml"), ["subject.images=pics"])
    assert loaded.folder_of("subject.images") == tmp_path / "elsewhere"
    assert loaded.path.is_absolute()


def test_origins_say_where_each_value_is_written(load, good) -> None:
    origins = load(good, "seed=3").origins
    assert str(origins["train.steps"]) == "r.yaml:13:10"
    assert str(origins["export.1"]) == "r.yaml:15:21"
    assert str(origins["seed"]) == "command line:"


@pytest.mark.parametrize("name", ["zwx_car", "mnv_style"])
def test_the_other_embedded_recipes_differ_in_what_they_teach(name: str) -> None:
    dog, other = (load_recipe(RECIPES / f"{file}.yaml").recipe for file in ("sks_dog", name))
    assert other.subject.images == f"embedded:{name}" == f"embedded:{other.name}"
    same = ("base", "images", "export", "seed")
    assert all(getattr(other, key) == getattr(dog, key) for key in same)
    assert (other.prior.count, other.adapt.denoiser) == (dog.prior.count, dog.adapt.denoiser)
    assert not set(other.samples.prompts or ()) & set(dog.samples.prompts or ())


def test_the_recipes_of_the_project_load() -> None:
    small = load_recipe(RECIPES / "sks_dog.yaml").recipe
    large = load_recipe(RECIPES / "sks_dog_sd15.yaml")
    assert (small.base.path, small.images.resolution, small.train.learning_rate) == ("embedded", 64, 2e-3)
    assert (small.prior.count, small.adapt.denoiser.targets, small.export) == (96, "all", ("diffusers", "peft"))
    assert large.recipe.subject.instance_prompt == small.subject.instance_prompt
    assert len(large.recipe.base.revision or "") == 40 and large.recipe.images.resolution == 512
    assert [f.name for f in large.files] == ["sks_dog_sd15.yaml", "sks_dog.yaml"]


def test_what_is_wrong_with_words_references_and_types_is_told_at_once(load, good, monkeypatch) -> None:
    """What stands for something unknown is not judged by its type as well."""
    monkeypatch.delenv("NOPE", raising=False)
    with pytest.raises(InvalidRecipe) as caught:
        load(good.replace("steps: 300", "stpes: 300\n  batch_size: '${env:NOPE}'\n  checkpoint_every: ${train.stopps}")
             + "env: [NOPE]\n", "train..steps=3", "seed=many", "=4")
    assert [problem.key for problem in caught.value.problems] == [
        "train.stpes", "train.batch_size", "train.checkpoint_every", "train..steps", "", "seed"]


def test_what_could_not_be_read_hides_nothing_else_and_is_not_missed(tmp_path: Path) -> None:
    """A file, a profile and a key that are wrong: what they would have said is not asked for as well."""
    (tmp_path / "r.yaml").write_text("extends: [gone.yaml, gone_too.yaml]\nseed: 1\nseed: 2\nsead: 3\n"
                                     "train: {steps: many}\nprofiles: {ci: {train: {steps: 3}}}\n")
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(tmp_path / "r.yaml", ["threads=none"], ["cu", "gpu"])
    told = [(problem.span.line if problem.span else 0, problem.key) for problem in caught.value.problems]
    assert sorted(told[:5]) == [(1, ""), (1, ""), (3, "seed"), (4, "sead"), (5, "train.steps")]
    assert [key for _, key in told[5:]] == ["", "", "threads"]
    assert ["allowed: ci" in problem.message for problem in caught.value.problems[5:]] == [True, True, False]
