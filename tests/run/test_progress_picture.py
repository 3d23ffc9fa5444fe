"""Does progress.png grow while a training goes on, and is no file of the user ever in its way?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from stub_world import Train, go, stub_stages

from dbrun.events import Note
from dbrun.images.grid import draw_grid, save_png
from dbrun.images.previews import MAX_STRIP_STEPS, draw_strip
from dbrun.run import progress_picture
from dbrun.run.progress_picture import place_progress
from dbrun.stages.base import StageContext
from dbrun.store.store import Store

PROMPTS = ("a dog", "a cat")
SHOWN = ("samples={every: 2, prompts: [a dog, a cat]}",)


def draw_preview(folder: Path, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [Image.new("RGB", (64, 64), (step, 10 * column, 0)) for column in range(len(PROMPTS))]
    save_png(draw_grid(((f"step {step}", pictures),), PROMPTS), folder / f"step-{step:08d}.png")


class Previewing(Train):
    """Training that draws previews after steps 2 and 4, as the real one does, and then may end with an error."""

    NAME = "train"
    fails = False

    def work(self, job: StageContext[Any]) -> None:
        assert job.runtime.run_folder is not None
        for step in (2, 4):
            draw_preview(job.runtime.run_folder / "samples", step)
            job.note(f"samples after step {step}")
        if self.fails:
            raise RuntimeError("it broke")
        super().work(job)


class Failing(Previewing):
    fails = True


def train(home: Path, *overrides: str, stage: type[Train] = Previewing, emit: Any = None) -> Any:
    return go(home, *SHOWN, *overrides, stages={**stub_stages(), "train": stage()}, emit=emit)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def out(home: Path) -> Path:
    return home / "outputs" / "stub"


def test_it_grows_while_training_and_is_delivered_with_the_rest(home: Path, out: Path) -> None:
    heights, texts = [], []

    def watch(event: Any) -> None:
        if isinstance(event, Note) and event.stage == "train":
            texts.append(event.text)
            if (out / "progress.png").exists():
                heights.append(Image.open(out / "progress.png").height)

    train(home, emit=watch)
    # told of once, when it is there; the second time it has one row more
    assert texts == ["samples after step 2", f"how it learns, step by step: {out / 'progress.png'}",
                     "samples after step 4"]
    assert Image.open(out / "progress.png").height > heights[0]
    record = json.loads((out / "dbrun.json").read_text())
    assert "in_progress" not in record and "progress.png" in record["files"] and record["stages"]
    assert names(out) == {"progress.png", "dbrun.json", "diffusers", "peft", "kohya"}
    assert names(out.parent) == {"stub"}


def test_a_training_that_stops_leaves_it_and_the_next_run_delivers_over_it(home: Path, out: Path) -> None:
    with pytest.raises(Exception, match="it broke"):
        train(home, stage=Failing)
    assert names(out) == {"progress.png", "dbrun.json"}
    train(home)
    assert "progress-kept.png" not in names(out) and "peft" in names(out)


def test_one_that_was_reused_shows_the_previews_of_the_run_that_trained(home: Path, out: Path) -> None:
    train(home)
    first = (out / "progress.png").read_bytes()
    train(home, "export=[peft]")
    assert (out / "progress.png").read_bytes() == first and "kohya" not in names(out)


def test_an_earlier_delivery_stays_whole_and_comes_back(home: Path, out: Path) -> None:
    train(home)
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "dbrun.json"}
    with pytest.raises(Exception, match="it broke"):
        train(home, "train.steps=9", stage=Failing)
    assert whole.items() <= {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}.items()
    train(home)
    assert "in_progress" not in json.loads((out / "dbrun.json").read_text())


def test_what_the_user_made_or_changed_is_left_alone(home: Path, out: Path) -> None:
    store = Store(home / "store")
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("precious")
    assert not place_progress(b"strip", out, store, {}) and names(out) == {"thesis.txt"}
    (out / "thesis.txt").unlink()
    assert place_progress(b"strip", out, store, {}) and place_progress(b"longer", out, store, {})
    (out / "progress.png").write_bytes(b"mine")
    assert not place_progress(b"longest", out, store, {})
    go(home)
    assert (out / "progress.png").read_bytes() == b"mine" and "peft" in names(out)
    train(home, "train.steps=9")
    assert (out / "progress-kept.png").read_bytes() == b"mine" and (out / "progress.png").read_bytes() != b"mine"


@pytest.mark.parametrize("earlier", [b"strip", None])
def test_a_kill_between_record_and_picture_makes_no_file_the_users(home: Path, out: Path, earlier: bytes | None,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    store, replace = Store(home / "store"), progress_picture._replace
    if earlier:
        assert place_progress(earlier, out, store, {})

    def killed(path: Path, content: bytes, place: Path) -> None:
        if path.suffix == ".png":
            raise KeyboardInterrupt
        replace(path, content, place)

    monkeypatch.setattr(progress_picture, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        place_progress(b"longer", out, store, {})
    monkeypatch.undo()
    assert place_progress(b"longest", out, store, {}) and (out / "progress.png").read_bytes() == b"longest"
    monkeypatch.setattr(progress_picture, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        place_progress(b"other", out, store, {})
    go(home)
    assert names(out) == {"dbrun.json", "diffusers", "peft", "kohya"}


def test_a_long_strip_is_bounded_and_begins_and_ends_where_the_training_does(tmp_path: Path) -> None:
    for step in range(1, 2 * MAX_STRIP_STEPS + 1):
        draw_preview(tmp_path, step)
    (tmp_path / ".1.step-00000001.png").write_bytes(b"half of one")
    strip = draw_strip(tmp_path, PROMPTS)
    assert strip is not None and draw_strip(tmp_path / "none", PROMPTS) is None
    reds = {pixel[0] for _, pixel in strip.getcolors(2**20) if pixel[2] == 0}
    assert len(reds) == MAX_STRIP_STEPS and {1, 2 * MAX_STRIP_STEPS} <= reds
