"""Facts about an export describe recipe, results, versions and machine."""

from importlib.metadata import version

from stub_world import stub_stages

import dbrun
from dbrun.recipe.load import load_recipe
from dbrun.run import run_metadata as module
from dbrun.run.run_metadata import export_metadata
from dbrun.stages.sources import Numerics
from dbrun.store.traces import Trace

TRACE = Trace("train", "1" * 64, "2" * 64, {}, {}, "2026-01-01T00:00:00Z", 1.5)


def test_the_facts(home, monkeypatch):
    stages = stub_stages()
    monkeypatch.setattr(type(stages["train"]), "libraries", ("numpy", "torch"))
    found = export_metadata(load_recipe(home / "r.yaml").recipe, {"train": TRACE}, stages, Numerics("cpu", 2))
    assert found["recipe"]["schema"] == "dbrun/v1"
    assert found["stages"] == {"train": {"key": "1" * 64, "digest": "2" * 64, "created": "2026-01-01T00:00:00Z",
                                         "seconds": 1.5}}
    assert found["versions"]["dbrun"] == dbrun.__version__ and found["versions"]["torch"] == version("torch")
    assert found["machine"]["device"] == "cpu" and found["machine"]["cpus"] >= 1


def test_what_the_system_does_not_tell_is_none(tmp_path):
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "information").write_text("Model: \t H200\nIRQ: 1\n")
    assert module._first_match(f"{tmp_path}/*/information", r"Model:\s*(.+)") == "H200"
    assert module._first_match(f"{tmp_path}/*/nothing", r"Model:\s*(.+)") is None
    assert module._first_match(f"{tmp_path}/*/information", r"Other:\s*(.+)") is None


def test_no_place_of_the_users_machine_is_a_fact(home):
    words = ["base.path=/srv/models/sd", "subject.images=/home/me/rex", "subject.class_prompt=a dog",
             "prior={count: null, images: /home/me/dogs}"]
    found = export_metadata(load_recipe(home / "r.yaml", words).recipe, {}, stub_stages(), Numerics("cpu", 1))["recipe"]
    assert (found["base"]["path"], found["subject"]["images"]) == ("…/sd", "…/rex")
    assert found["prior"]["images"] == "…/dogs" and "/home/me" not in str(found)
    one = "{images: /home/me/rex, instance_prompt: a rex, class_prompt: a dog, class_images: /home/me/dogs}"
    words = ["subject=null", f"subjects=[{one}, {one.replace('/home/me/', 'my ')}]", "prior.count=null"]
    found = export_metadata(load_recipe(home / "r.yaml", words).recipe, {}, stub_stages(), Numerics("cpu", 1))["recipe"]
    assert [(s["images"], s["class_images"]) for s in found["subjects"]] == [
        ("…/rex", "…/dogs"), ("my rex", "my dogs")]
    plain = export_metadata(load_recipe(home / "r.yaml").recipe, {}, stub_stages(), Numerics("cpu", 1))["recipe"]
    assert plain["prior"]["images"] is None
