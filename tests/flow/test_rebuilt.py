"""Is the recipe of an exported adapter what made it, and is what is other here said?"""

import json
import shutil

import pytest

from dbrun.errors import RecipeError
from dbrun.plan.device import resolve_for_device
from dbrun.plan.planner import make_plan
from dbrun.plan.provenance_diff import provenance_notes
from dbrun.recipe.load import load_recipe
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.safetensors_header import read_provenance
from dbrun.store.store import Store

FILE = "outputs/tiny/pytorch_lora_weights.safetensors"


def told(project, *words: str, file: str = FILE, change=lambda document: None) -> tuple[list[str], bool]:
    """What is said of the differences, and whether anything is left to do."""
    loaded, store = load_recipe(project.folder / file, words), Store(project.folder / ".dbrun")
    resolved = resolve_sources(loaded, store)
    document = read_provenance(project.folder / file)
    change(document)
    notes = provenance_notes(document, loaded.recipe, resolved)
    return [note.text for note in notes], make_plan(loaded.recipe, resolved, store).has_pending


def resolved(recipe: Recipe) -> Recipe:
    """The recipe as it trained on a CPU: a file says the precision that `auto` became."""
    return resolve_for_device(recipe, "cpu")


def test_an_exported_file_is_the_recipe_that_made_it(project, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    known = resolved(load_recipe(project.folder / "tiny.yaml").recipe)
    for file in (FILE, "outputs/tiny/tiny.safetensors", "outputs/tiny/peft/denoiser/adapter_model.safetensors"):
        if (project.folder / file).exists():
            assert load_recipe(project.folder / file).recipe == known
    assert told(project) == (["the same pictures, base, settings, device and libraries as when it was made"], False)


def test_from_a_file_is_the_recipe_that_made_it_too(project) -> None:
    for words in (("--from", FILE), ("train.steps=6", "--from", FILE), (FILE,)):
        done = project.dbrun("plan", *words)
        assert "as when it was made" in done.stdout + done.stderr and " RUN" not in done.stdout
    assert "train.steps" in project.dbrun("run", "--from", FILE, "train.steps=8", "--dry-run").stderr
    assert "found two recipes" in project.dbrun("plan", "tiny.yaml", "--from", FILE, check=2).stderr
    assert "no stage 'x'" in project.dbrun("plan", "tiny.yaml", "--from", "x", check=2).stderr


def test_what_is_run_again_from_a_file_tells_of_the_recipe_behind_it(project) -> None:
    project.dbrun("run", "--from", FILE, "name=again")
    told = json.loads((project.folder / "outputs" / "again" / "dbrun.json").read_text())["written"]
    first = json.loads((project.folder / "outputs" / "tiny" / "dbrun.json").read_text())["written"]
    assert told["overrides"] == ["name=again"] and first["files"][0]["name"] == "tiny.yaml"
    assert told["rebuilt_from"] == {"name": "pytorch_lora_weights.safetensors", "written": first}


def test_show_tells_the_recipe_as_it_was_written_and_as_resolved(project, tmp_path) -> None:
    told = json.loads(project.dbrun("show", FILE, "--json").stdout)
    assert told["record"]["written"]["files"] == [{"name": "tiny.yaml", "text": (
        project.folder / "tiny.yaml").read_text()}]
    assert told["recipe"]["adapt"]["denoiser"]["alpha"] == 4.0
    assert set(told["record"]["stages"]["train"]) == {"key", "digest", "created", "seconds"}
    assert "| prior: {count: 3, weight: 1.0, steps: 2, guidance: 2.0}\n" in project.dbrun("show", FILE).stdout
    alone = shutil.copy(project.folder / FILE, tmp_path / "alone.safetensors")
    assert "record" not in json.loads(project.dbrun("show", str(alone), "--json").stdout)


def test_what_is_other_here_is_said(project, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    (project.folder / "pictures" / "0.png").unlink()
    said, pending = told(project, "train.steps=8", change=lambda d: d["libraries"].update(torch="1.0"))
    assert pending and any(text.startswith("libraries.torch: was 1.0, is ") for text in said)
    assert any("pictures: 1 of 3 are not here" in text and "0 are new" in text for text in said)
    assert "train.steps: was 6, is 8" in said


def test_a_lone_file_asks_for_the_places_that_it_knows_by_contents(project, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    alone = shutil.copy(project.folder / FILE, tmp_path / "my dog.safetensors")
    with pytest.raises(RecipeError, match=r"does not store the paths of: base.path, subject.images") as caught:
        load_recipe(tmp_path / "my dog.safetensors")
    assert caught.value.fix == "add them: base.path=PATH subject.images=PATH"
    said, pending = told(project, "base.path=base", "subject.images=pictures", "samples.steps=2",
                         file=str(alone))
    assert said == ["the same pictures, base, settings, device and libraries as when it was made"] and pending
    recipe = load_recipe(tmp_path / "my dog.safetensors", ["base.path=base", "subject.images=pictures"]).recipe
    known = resolved(load_recipe(project.folder / "tiny.yaml").recipe)
    assert recipe.name == "my_dog" and recipe.adapt == known.adapt and recipe.prior == known.prior
    assert recipe.train == known.train.model_copy(update={"checkpoint_every": recipe.train.checkpoint_every})


def test_a_record_of_another_machine_asks_for_its_places(project, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    record = project.folder / "outputs" / "tiny" / "dbrun.json"
    document = json.loads(record.read_text())
    document["recipe"]["subject"]["images"] = "…/rex"
    record.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"paths of: subject\.images"):
        load_recipe(project.folder / FILE)
    document["stages"]["train"]["digest"] = "0" * 64
    record.write_text(json.dumps(document))
    with pytest.raises(RecipeError, match=r"paths of: base\.path, subject\.images"):
        load_recipe(project.folder / FILE)
