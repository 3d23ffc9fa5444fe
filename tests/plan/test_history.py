"""Earlier runs are found by name, the newest first; what cannot be read is passed over."""

import json
import shutil
from pathlib import Path

import pytest

from dbrun.plan.history import create_run_folder, last_key_documents, last_run, save_last_run
from dbrun.store.store import Store

KEYS = ["1" * 64, "2" * 64]


@pytest.fixture
def store(fresh):
    store = Store(fresh / "store")
    store.prepare()
    for number, key in enumerate(KEYS):
        folder = store.make_temp_folder()
        (folder / "x").write_text(str(number))
        store.publish("train", key, {"number": number}, folder, seconds=0, durable=False)
    return store


def ran(store, name, keys):
    run = create_run_folder(store, name)
    (run / "keys.json").write_text(keys if isinstance(keys, str) else json.dumps(keys))


def test_the_newest_run_of_the_name_answers(store):
    ran(store, "a", {"train": KEYS[0]})
    ran(store, "b", {"train": KEYS[1]})
    ran(store, "a", {"load": KEYS[1]})
    assert list(last_key_documents(store, "a", "train")) == [{"number": 0}]
    assert list(last_key_documents(store, "b", "train")) == [{"number": 1}]
    assert list(last_key_documents(store, "c", "train")) == []


def test_a_name_inside_another_is_another(store):
    ran(store, "x-a", {"train": KEYS[0]})
    assert list(last_key_documents(store, "a", "train")) == []


@pytest.mark.parametrize("keys", ["{", "[]", '{"train": "../../x"}', '{"train": 3}', json.dumps({"train": "f" * 64})])
def test_what_cannot_be_read_is_passed_over(store, keys):
    ran(store, "a", {"train": KEYS[0]})
    ran(store, "a", keys)
    assert list(last_key_documents(store, "a", "train")) == [{"number": 0}]


def test_runs_stand_in_the_order_of_their_beginning(store):
    names = [create_run_folder(store, "a").name for _ in range(50)]
    assert names == sorted(names) and len(set(names)) == 50


def test_the_last_recipe(store):
    save_last_run(store, Path("r.yaml"), ["a=1"])
    assert last_run(store).overrides == ("a=1",)
    here = json.loads((store.root / "last.json").read_text())
    for text in ("", "[]", json.dumps({**here, "path": 3}), json.dumps({**here, "overrides": None})):
        (store.root / "last.json").write_text(text)
        assert last_run(store) is None


def test_a_copied_project_takes_its_own_recipe(fresh, monkeypatch):
    for name in ("one", "two"):
        (fresh / name / "recipes").mkdir(parents=True)
        (fresh / name / "recipes" / "r.yaml").write_text(name)
    monkeypatch.chdir(fresh / "one")
    one = Store(Path(".dbrun"))
    one.prepare()
    save_last_run(one, (fresh / "one" / "recipes" / "r.yaml"), ["train.steps=3"])
    shutil.copytree(fresh / "one" / ".dbrun", fresh / "two" / ".dbrun")
    monkeypatch.chdir(fresh / "two")
    last = last_run(Store(Path(".dbrun")))
    assert Path(last.path).read_text() == "two" and last.overrides == ("train.steps=3",)


@pytest.mark.parametrize("linked", [False, True])
def test_projects_that_share_a_store_do_not_share_a_recipe(fresh, monkeypatch, linked):
    for name in ("one", "two", "shared"):
        (fresh / name).mkdir()
    root = Path(".dbrun") if linked else fresh / "shared"
    if linked:
        for name in ("one", "two"):
            (fresh / name / ".dbrun").symlink_to(fresh / "shared")
    monkeypatch.chdir(fresh / "one")
    Store(root).prepare()
    save_last_run(Store(root), fresh / "one" / "r.yaml", [])
    assert last_run(Store(root)).path == "r.yaml"
    monkeypatch.chdir(fresh / "two")
    assert last_run(Store(root)) is None
