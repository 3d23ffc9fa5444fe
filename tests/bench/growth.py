"""What grows with the runs on record and with the pictures: CPU milliseconds of `ls` a run, and of `plan` a picture.

    python tests/bench/growth.py [--runs 1000] [--pictures 300] [--before PATH] [--json FILE]

Each is the difference between a large and a small project, so that starting Python does not count. `plan` is measured
before there is a store, where it writes nothing, and beside one that remembers the pictures. Runs share their class
images, and differ in their training and export.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

from bench.rounds import Numbers, compare_checkouts, comparing_arguments, cpu_seconds
from PIL import Image

from dbrun.store.runs import EVENTS_FILE, RECIPE_FILE, GcRoots, save_roots
from dbrun.store.store import Store
from dbrun.store.usage import ITEM_SUFFIX

CLASS_IMAGES = 20
"""Items that one stage's result is made of."""
SHARED = {"load": 0, "adapt": 0, "generate-priors": CLASS_IMAGES, "preprocess": 0}
"""Stage whose result all runs share -> its items."""
OWN = ("train", "export")
"""Stages of which each run has a result of its own."""
SIDE = 512
"""Pixels of a picture's side; noise, of which a PNG takes 0.8 MB."""
RECIPE = """schema: dbrun/v1
name: grown
base: {type: sd, path: embedded}
subject: {images: pictures, instance_prompt: a photo of sks dog}
images: {resolution: 64}
adapt: {denoiser: {type: lora}}
train: {steps: 10}
"""


def write_runs(store: Store, count: int) -> None:
    """Put so many finished runs on record, with small results."""
    store.prepare()
    shared: dict[str, str] = {}
    for stage, items in SHARED.items():
        keys = [write_result(store, stage + ITEM_SUFFIX, f"{stage} {item}") for item in range(items)]
        shared[stage] = write_result(store, stage, stage, keys)
    for number in range(count):
        folder = store.runs / f"20261130-{number // 10000:06}.{number % 10000:06}-grown"
        folder.mkdir(parents=True)
        (folder / RECIPE_FILE).write_text("{}")
        end = {"event": "run_finished", "time": 0.0, "ran": 2, "reused": 4, "seconds": 9.0}
        (folder / EVENTS_FILE).write_text(json.dumps(end) + "\n")
        own = {stage: write_result(store, stage, f"{stage} {number}") for stage in OWN}
        save_roots(store, folder, GcRoots({**shared, **own}))


def write_result(store: Store, stage: str, name: str, items: Sequence[str] = ()) -> str:
    """Publish a result of one small file; return its key."""
    key = hashlib.sha256(name.encode()).hexdigest()
    folder = store.make_temp_folder()
    (folder / "result").write_text(name)
    store.publish(stage, key, {"name": name}, folder, seconds=1.0, durable=False, items=items)
    return key


def write_project(folder: Path, pictures: int) -> None:
    """Write a recipe with so many pictures."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "grown.yaml").write_text(RECIPE)
    for number in range(pictures):
        picture = Image.effect_noise((SIDE, SIDE), 80 + number % 100).convert("RGB")
        picture.save(folder / "pictures" / f"{number:05}.png")


def measure(checkout: Path, runs: Path, few: Path, many: Path, counts: tuple[int, int]) -> Numbers:
    """Milliseconds of each further run and picture. runs, few, many: projects; counts: runs, and further pictures."""
    plan = ("plan", "grown.yaml")
    # the first command of a checkout compiles its modules
    for words in (("ls",), plan):
        dbrun_seconds(checkout, words, few)
    numbers = {"ls, ms a run": further_ms(checkout, ("ls",), few, runs) / counts[0],
               "plan without a store, ms a picture": further_ms(checkout, plan, few, many) / counts[1]}
    for folder in (few, many):
        Store(folder / ".dbrun").prepare()
        # the first plan beside a store remembers the pictures
        dbrun_seconds(checkout, plan, folder)
    numbers["plan beside a store, ms a picture"] = further_ms(checkout, plan, few, many) / counts[1]
    for folder in (few, many):
        shutil.rmtree(folder / ".dbrun")
    return numbers


def further_ms(checkout: Path, words: Sequence[str], small: Path, large: Path) -> float:
    """CPU milliseconds that a command takes in a large project beyond those in a small one."""
    return 1e3 * (dbrun_seconds(checkout, words, large) - dbrun_seconds(checkout, words, small))


def dbrun_seconds(checkout: Path, words: Sequence[str], folder: Path) -> float:
    """CPU seconds of a command of dbrun in a project."""
    return cpu_seconds((sys.executable, "-m", "dbrun", *words), checkout, folder)


def main() -> None:
    """Measure in fresh processes, and print."""
    parser = comparing_arguments(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pictures", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs, few, many = (Path(place, name) for name in ("runs", "few", "many"))
        runs.mkdir()
        write_runs(Store(runs / ".dbrun"), given.runs)
        write_project(few, 1)
        write_project(many, 1 + given.pictures)
        counts = (given.runs, given.pictures)
        compare_checkouts(lambda checkout: measure(checkout, runs, few, many, counts), given)


if __name__ == "__main__":
    main()
