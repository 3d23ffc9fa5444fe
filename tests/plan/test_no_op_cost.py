"""Finding out that nothing is to be done costs next to nothing and imports nothing heavy."""

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

from stub_world import resolved, stub_stages

from dbrun.plan import planner
from dbrun.plan.planner import make_plan
from dbrun.recipe.load import load_recipe
from dbrun.stages.sources import Picture
from dbrun.store import digests
from dbrun.store.digests import FileDigests
from dbrun.store.json_cache import JsonCache
from dbrun.store.store import Store

SCRIPT = Path(__file__).parents[1] / "stub_world.py"
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "PIL",
         "huggingface_hub", "rich", "omegaconf")


def test_a_run_with_nothing_to_do_is_cheap(home):
    code = f"""
import json, sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
from pathlib import Path
from stub_world import go
go(Path({str(home)!r}))
began = time.process_time()
assert go(Path({str(home)!r})).ran == ()
print(json.dumps([time.process_time() - began, [m for m in {HEAVY!r} if m in sys.modules]]))
"""
    seconds, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                               check=True).stdout)
    assert heavy == []
    assert seconds < 0.1


def test_ten_thousand_pictures_are_planned_in_a_second(home, monkeypatch):
    monkeypatch.setattr(digests, "MIN_AGE_SECONDS", -60.0)
    folder = home / "many"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"{i}.png").write_text(str(i))
    table = FileDigests(JsonCache(home / "store" / "t", home / "store" / "tmp"))
    paths = sorted(folder.iterdir())
    for path in paths:
        table.sha256(path)
    table.save()
    recipe, store = load_recipe(home / "r.yaml").recipe, Store(home / "store")
    base = resolved(home)
    began = time.process_time()
    again = FileDigests(JsonCache(home / "store" / "t", home / "store" / "tmp"))
    found = sorted(again.sha256(path) for path in paths)
    sources = type(base.sources)(base.sources.base, tuple(Picture(d, "a photo of sks dog") for d in found))
    scope = planner.make_scope(recipe, planner.ResolvedSources(sources), store, planner.ALL_STAGES, stub_stages())
    question = scope.stage_key("preprocess", {"load": "a" * 64, "generate-priors": "b" * 64})
    make_plan(recipe, scope.resolved, store, stages=stub_stages())
    assert time.process_time() - began < 1.0
    assert len(question.document["params"]["pictures"]) == 10_000


def test_a_lookup_of_a_result_with_ten_thousand_files_is_cheap(home):
    store = Store(home / "store")
    folder = store.make_temp_folder()
    for i in range(10_000):
        (folder / f"{i:05}").write_bytes(b"x")
    key = hashlib.sha256(b"many").hexdigest()
    store.publish("train", key, {"pictures": [{"digest": key, "prompt": "x"}] * 10_000}, folder, seconds=0,
                  durable=False)
    taken = []
    for _ in range(3):
        began = time.process_time()
        assert store.look_up("train", key) is not None
        taken.append(time.process_time() - began)
    assert min(taken) < 0.5
