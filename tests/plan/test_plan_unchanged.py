"""Is a run answered from stats alone only while really nothing has changed? Each attack must be seen."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_base import fake_base
from PIL import Image
from stub_world import RECIPE, Train, TrainParams, stub_stages

import dbrun
from dbrun.plan import keys, observed, unchanged
from dbrun.plan.observed import Observation, seen_by
from dbrun.plan.runner import execute
from dbrun.plan.sources import locate
from dbrun.plan.unchanged import FOLDER, recall
from dbrun.recipe.load import load_recipe
from dbrun.store.store import store_at_hand

PAUSE = 0.06


class Reading(Train):
    """Depends on an installed library, and on a file that no recipe names."""

    libraries = ("fakelib",)

    def params(self, recipe, sources) -> TrainParams:
        with Path("aside/words").open() as file:
            return TrainParams(recipe.train.steps, recipe.train.learning_rate + len(file.read()))


@dataclass
class World:
    home: Path
    between: Callable[[], None] = lambda: None

    def run(self, *overrides: str) -> str:
        """A run as the command line does it: `recalled`, or how many stages ran."""
        words = ("run", "r.yaml", *overrides)
        if (answer := recall(words)) is not None:
            assert answer == ([("err", "said\n"), ("out", "put\n")], 0)
            return "recalled"
        keys.full_version.cache_clear()
        observation, store = Observation(), store_at_hand()
        loaded = load_recipe(Path("r.yaml"), overrides)
        place = locate(loaded, store)
        stages = stub_stages() | {"train": Reading()}
        outcome = execute(loaded, place, store, emit=lambda event: None, overrides=overrides, stages=stages)
        self.between()
        observation.close()
        if not outcome.ran:
            seen = seen_by(loaded, store, [a.digest for a in outcome.artifacts.values()], outcome.outputs)
            observation.keep(words, store, seen, [("err", "said\n"), ("out", "put\n")], run=outcome)
        return f"{len(outcome.ran)} ran"

    def settle(self, *overrides: str) -> None:
        """Run until the command is answered from stats alone."""
        for _ in range(4):
            time.sleep(PAUSE)
            if self.run(*overrides) == "recalled":
                return
        raise AssertionError("never recalled")


@pytest.fixture
def world(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(observed, "SETTLED", PAUSE / 2)
    monkeypatch.setattr(unchanged, "FLEETING", (*unchanged.FLEETING, "PYTEST_CURRENT_TEST"))
    for name in ("pictures", "aside", "library/fakelib-1.0.dist-info", "package"):
        (fresh / name).mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (64, 64), (40 * i, 9, 9)).save(fresh / "pictures" / f"{i}.png")
    (fresh / "pictures" / "1.txt").write_text("a photo of sks dog, seen")
    (fresh / "aside" / "words").write_text("some")
    (fresh / "library/fakelib-1.0.dist-info/METADATA").write_text("Version: 1.0.0\n")
    (fresh / "package" / "__init__.py").write_text("code = 1")
    fake_base(fresh / "base")
    (fresh / "below.yaml").write_text(RECIPE.replace("path: embedded", "path: base").replace("name: stub", "name: low"))
    (fresh / "r.yaml").write_text("extends: below.yaml\nname: stub\n")
    (fresh / "other.yaml").write_text("extends: below.yaml\nname: other\n")
    monkeypatch.setattr(dbrun, "__file__", str(fresh / "package" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [str(fresh / "library"), *sys.path])
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("DBRUN_STORE", str(fresh / "store"))
    made = World(fresh)
    made.settle()
    return made


def in_place(path: str, old: bytes, new: bytes) -> None:
    """Change bytes of a file and put size, inode and mtime back."""
    file, before = Path(path), Path(path).stat()
    assert len(old) == len(new) and old in file.read_bytes()
    file.chmod(0o644)
    with file.open("r+b") as opened:
        data = opened.read().replace(old, new, 1)
        opened.seek(0)
        opened.write(data)
    file.chmod(before.st_mode & 0o777)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (before.st_size, before.st_ino, before.st_mtime_ns) == (after.st_size, after.st_ino, after.st_mtime_ns)


def trace(stage: str) -> Path:
    return next(Path("store/traces", stage).glob("*.json"))


def artifact(stage: str) -> Path:
    from dbrun.store.traces import Traces

    found = Traces(Path("store/traces"), Path("store/tmp")).read(stage, trace(stage).stem)
    assert found
    return Path("store/objects", found.digest[:2], found.digest)


def damaged(stage: str) -> None:
    file = next(p for p in artifact(stage).rglob("*") if p.is_file())
    in_place(str(file), data := file.read_bytes()[:1], b"x" if data != b"x" else b"y")


def replaced_by_link() -> None:
    shutil.move("pictures/0.png", "aside/0.png")
    Path("pictures/0.png").symlink_to(Path("aside/0.png").absolute())


def installed_beside() -> None:
    Path("library/fakelib-0.9.dist-info").mkdir()
    Path("library/fakelib-0.9.dist-info/METADATA").write_text("Version: 0.9.0\n")


def another_run_of_that_name() -> None:
    World(Path()).run("train.steps=7")


ATTACKS: dict[str, Callable[[], object]] = {
    "a recipe edited, same size, inode and time": lambda: in_place("r.yaml", b"name: stub", b"name: stab"),
    "a recipe that it extends": lambda: in_place("below.yaml", b"steps: 6", b"steps: 8"),
    "a picture edited, same size, inode and time": lambda: in_place("pictures/0.png", b"IDAT", b"IDAX"),
    "a picture replaced by a link to the same bytes": replaced_by_link,
    "a new picture": lambda: shutil.copy("pictures/0.png", "pictures/9.png"),
    "a picture removed": lambda: Path("pictures/0.png").unlink(),
    "a picture renamed": lambda: Path("pictures/0.png").rename("pictures/8.png"),
    "a prompt edited": lambda: in_place("pictures/1.txt", b"seen", b"sold"),
    "a new prompt": lambda: Path("pictures/2.txt").write_text("a photo of sks dog, asleep"),
    "the folder of pictures replaced": lambda: (shutil.copytree("pictures", "p2"), shutil.rmtree("pictures"),
                                                Path("p2").rename("pictures")),
    "the base's weights": lambda: in_place("base/unet/diffusion_pytorch_model.safetensors", b"unet", b"UNET"),
    "a file added to the base": lambda: Path("base/unet/more.safetensors").write_text("x"),
    "an output deleted": lambda: Path("outputs/stub/peft/weights").unlink(),
    "an output edited": lambda: in_place("outputs/stub/peft/weights", b"peft", b"PEFT"),
    "all outputs deleted": lambda: shutil.rmtree("outputs"),
    "the record beside the outputs deleted": lambda: Path("outputs/stub/dbrun.json").unlink(),
    "a trace deleted": lambda: trace("train").unlink(),
    "a trace edited": lambda: in_place(str(trace("train")), b'"stage"', b'"stagE"'),
    "an artifact deleted": lambda: shutil.rmtree(artifact("preprocess")),
    "an artifact damaged": lambda: damaged("generate-priors"),
    "the export's artifact damaged": lambda: damaged("export"),
    "the store deleted": lambda: shutil.rmtree("store"),
    "dbrun's own code": lambda: in_place("package/__init__.py", b"code = 1", b"code = 2"),
    "a new file in dbrun": lambda: Path("package/new.py").write_text(""),
    "a library's version": lambda: in_place("library/fakelib-1.0.dist-info/METADATA", b"1.0.0", b"1.1.0"),
    "a library installed in front": installed_beside,
    "a file that only a stage knows of": lambda: in_place("aside/words", b"some", b"more"),
    "an environment variable": lambda: os.environ.__setitem__("CUDA_VISIBLE_DEVICES", "7"),
    "another run of that name": another_run_of_that_name,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_change_is_seen(world: World, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recall(("run", "r.yaml")) is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    world.settle()
    ATTACKS[attack]()
    assert recall(("run", "r.yaml")) is None


@pytest.mark.parametrize("words", [("run", "r.yaml", "train.steps=7"), ("run", "r.yaml", "device=auto"),
                                   ("run", "r.yaml", "threads=2"), ("run", "r.yaml", "--force", "train"),
                                   ("run", "other.yaml"), ("run",), ()])
def test_other_words_are_another_command(world: World, words: tuple[str, ...]) -> None:
    assert recall(words) is None and recall(("run", "r.yaml")) is not None


def test_a_gpu_that_appears_and_another_folder_are_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listed(path), *(["nvidia0"] if path == "/dev" else [])])
    assert recall(("run", "r.yaml")) is None
    monkeypatch.undo()
    monkeypatch.setenv("DBRUN_STORE", str(world.home / "store"))
    monkeypatch.chdir(world.home / "aside")
    assert recall(("run", "r.yaml")) is None


def test_what_changes_nothing_does_not_stop_it(world: World) -> None:
    Path("r.yaml").touch()
    Path("store/digests.table").touch()
    Path("package/__pycache__").mkdir()
    Path("outputs/else").mkdir()
    assert world.run() == "recalled"


def test_a_picture_that_changes_during_the_run_is_not_taken_for_what_was_read(world: World) -> None:
    time.sleep(PAUSE)
    shutil.rmtree(world.home / "store" / FOLDER)
    world.between = lambda: in_place("pictures/0.png", b"IDAT", b"IDAX")
    assert world.run() == "0 ran"
    assert recall(("run", "r.yaml")) is None


@pytest.mark.parametrize("gone", ["pictures", "pictures/0.png", "aside/words", "base"])
def test_what_goes_away_during_the_run_is_not_taken_for_missing_all_along(world: World, gone: str) -> None:
    time.sleep(PAUSE)
    shutil.rmtree(world.home / "store" / FOLDER)
    world.between = lambda: shutil.move(gone, "elsewhere")
    assert world.run() == "0 ran"
    assert recall(("run", "r.yaml")) is None


def test_nothing_younger_than_two_seconds_is_trusted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert observed.SETTLED == 2.0
    monkeypatch.chdir(world.home)
    shutil.rmtree("store")
    assert world.run() == "6 ran"
    assert [world.run(), world.run()] == ["0 ran", "0 ran"]


def test_the_recipe_last_run_is_the_one_that_was_recalled(world: World) -> None:
    from dbrun.plan.history import last_run

    before = Path("store/last.json").read_text()
    loaded, store = load_recipe(Path("other.yaml")), store_at_hand()
    execute(loaded, locate(loaded, store), store, emit=lambda event: None,
            stages=stub_stages() | {"train": Reading()})
    assert Path("store/last.json").read_text() != before
    assert world.run() == "recalled"
    assert (last := last_run(store_at_hand())) and last.path == "r.yaml"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "looks": [["bytes", "r.yaml", "x"]]}'])
def test_a_broken_record_is_no_record(world: World, text: str) -> None:
    for path in (world.home / "store" / FOLDER).iterdir():
        path.write_text(text)
    assert recall(("run", "r.yaml")) is None


def test_a_store_that_cannot_be_written_still_runs(world: World) -> None:
    shutil.rmtree(world.home / "store" / FOLDER)
    (world.home / "store" / FOLDER).write_text("in the way")
    time.sleep(PAUSE)
    assert world.run() == "0 ran"


def test_few_records_are_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "KEPT", 2)
    for steps in (6, 7, 8):
        world.settle(f"train.steps={steps}")
    assert len(list(Path("store", FOLDER).iterdir())) == 2
